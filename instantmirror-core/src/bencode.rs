//! Bencode, the encoding of BitTorrent (BEP 3): integers, byte strings, lists, dictionaries with sorted keys.
//!
//! Decoding is strict: one byte string per value. What other encoders get wrong and clients must live with, keys out of
//! order, is let through by [`Strictness::Keys`] and nothing else is. Depth and number of values are bounded, no length is
//! believed before the bytes are there, and byte strings are borrowed from the input.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// Deepest nesting that is read.
pub const DEPTH_MAX: usize = 32;
/// Most values that one input may hold: a torrent of a million files has some six million.
pub const VALUES_MAX: usize = 16_000_000;
/// Digits of the longest number that is read: those of a 64-bit integer.
const DIGITS_MAX: usize = 20;

/// A dictionary; keys are in order of their bytes.
pub type Dict<'a> = BTreeMap<Cow<'a, [u8]>, Value<'a>>;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// An integer. Larger ones than 64 bits hold do not occur.
    Int(i64),
    /// Bytes, mostly text.
    Bytes(Cow<'a, [u8]>),
    /// Values in order.
    List(Vec<Value<'a>>),
    /// Values by key.
    Dict(Dict<'a>),
}

/// What else than the one right encoding is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Nothing.
    All,
    /// Keys of dictionaries may stand in any order, each once.
    Keys,
}

/// Why bytes are no bencode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {what}")]
pub struct BencodeError {
    /// Where.
    pub at: usize,
    /// What is wrong.
    pub what: &'static str,
}

impl<'a> Value<'a> {
    /// Decodes bytes that are one value and nothing else.
    ///
    /// # Errors
    /// [`BencodeError`].
    pub fn decode(bytes: &'a [u8], strictness: Strictness) -> Result<Self, BencodeError> {
        let (value, end) = Self::decode_first(bytes, strictness)?;
        if end < bytes.len() {
            return Err(BencodeError {
                at: end,
                what: "bytes behind the end of the value",
            });
        }
        Ok(value)
    }

    /// Decodes the value at the beginning of bytes, and returns where it ends.
    ///
    /// # Errors
    /// [`BencodeError`].
    pub fn decode_first(bytes: &'a [u8], strictness: Strictness) -> Result<(Self, usize), BencodeError> {
        let mut decoder = Decoder {
            bytes,
            at: 0,
            values: 0,
            strictness,
        };
        let value = decoder.value(0)?;
        Ok((value, decoder.at))
    }

    /// A byte string.
    pub fn bytes(bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self::Bytes(bytes.into())
    }

    /// A byte string of a text.
    #[must_use]
    pub fn text(text: &'a str) -> Self {
        Self::Bytes(Cow::Borrowed(text.as_bytes()))
    }

    /// A dictionary of these.
    pub fn dict<K: Into<Cow<'a, [u8]>>>(entries: impl IntoIterator<Item = (K, Self)>) -> Self {
        Self::Dict(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    /// The integer it is.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(*int),
            _ => None,
        }
    }

    /// The bytes it is.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The text it is.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// The list it is.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }

    /// The dictionary it is.
    #[must_use]
    pub fn as_dict(&self) -> Option<&Dict<'a>> {
        match self {
            Self::Dict(dict) => Some(dict),
            _ => None,
        }
    }

    /// What a dictionary has under a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.as_dict()?.get(key.as_bytes())
    }

    /// Appends the encoding.
    pub fn encode_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Int(int) => out.extend_from_slice(format!("i{int}e").as_bytes()),
            Self::Bytes(bytes) => encode_bytes(bytes, out),
            Self::List(list) => {
                out.push(b'l');
                list.iter().for_each(|value| value.encode_to(out));
                out.push(b'e');
            }
            Self::Dict(dict) => {
                out.push(b'd');
                for (key, value) in dict {
                    encode_bytes(key, out);
                    value.encode_to(out);
                }
                out.push(b'e');
            }
        }
    }

    /// The encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_to(&mut out);
        out
    }
}

/// The bytes of the value that a dictionary has under a key, as they stand there: what an info-hash is the hash of.
///
/// # Errors
/// [`BencodeError`] if the bytes are no dictionary and nothing else.
pub fn raw_value<'a>(bytes: &'a [u8], key: &str, strictness: Strictness) -> Result<Option<&'a [u8]>, BencodeError> {
    let mut decoder = Decoder {
        bytes,
        at: 0,
        values: 0,
        strictness,
    };
    let mut found = None;
    decoder.dict(0, &mut |name, place| {
        if name == key.as_bytes() {
            found = Some(place);
        }
    })?;
    if decoder.at < bytes.len() {
        return Err(decoder.wrong("bytes behind the end of the value"));
    }
    Ok(found.and_then(|place: std::ops::Range<usize>| bytes.get(place)))
}

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
}

struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
    values: usize,
    strictness: Strictness,
}

impl<'a> Decoder<'a> {
    fn wrong(&self, what: &'static str) -> BencodeError {
        BencodeError { at: self.at, what }
    }

    fn peek(&self) -> Result<u8, BencodeError> {
        let byte = self.bytes.get(self.at).copied();
        byte.ok_or_else(|| self.wrong("the value is cut off"))
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, BencodeError> {
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(self.wrong("more values than anybody needs"));
        }
        if depth > DEPTH_MAX {
            return Err(self.wrong("nested too deep"));
        }
        match self.peek()? {
            b'i' => {
                self.at += 1;
                let int = self.int(b'e')?;
                Ok(Value::Int(int))
            }
            b'l' => {
                self.at += 1;
                let mut list = Vec::new();
                while self.peek()? != b'e' {
                    list.push(self.value(depth + 1)?);
                }
                self.at += 1;
                Ok(Value::List(list))
            }
            b'd' => self.dict(depth, &mut |_, _| {}).map(Value::Dict),
            b'0'..=b'9' => self.string().map(|bytes| Value::Bytes(Cow::Borrowed(bytes))),
            _ => Err(self.wrong("no value begins so")),
        }
    }

    /// Tells `visit` each key and the place of its value.
    fn dict(
        &mut self,
        depth: usize,
        visit: &mut dyn FnMut(&'a [u8], std::ops::Range<usize>),
    ) -> Result<Dict<'a>, BencodeError> {
        if self.peek()? != b'd' {
            return Err(self.wrong("no dictionary"));
        }
        self.at += 1;
        let mut dict = Dict::new();
        let mut last: Option<&[u8]> = None;
        while self.peek()? != b'e' {
            let key = self.string()?;
            if self.strictness == Strictness::All && last.is_some_and(|last| last >= key) {
                return Err(self.wrong("keys out of order"));
            }
            last = Some(key);
            let begin = self.at;
            let value = self.value(depth + 1)?;
            visit(key, begin..self.at);
            if dict.insert(Cow::Borrowed(key), value).is_some() {
                return Err(self.wrong("a key twice"));
            }
        }
        self.at += 1;
        Ok(dict)
    }

    fn string(&mut self) -> Result<&'a [u8], BencodeError> {
        let len = usize::try_from(self.int(b':')?).map_err(|_| self.wrong("a length below zero"))?;
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.wrong("a string that is longer than what is there"))?;
        let bytes = self.bytes.get(self.at..end).unwrap_or_default();
        self.at = end;
        Ok(bytes)
    }

    /// A number and what ends it.
    fn int(&mut self, end: u8) -> Result<i64, BencodeError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().take(DIGITS_MAX + 1).position(|byte| *byte == end);
        let len = len.ok_or_else(|| self.wrong("a number without its end"))?;
        let digits = rest.get(..len).unwrap_or_default();
        let magnitude = digits.strip_prefix(b"-").unwrap_or(digits);
        let is_plain = !magnitude.is_empty() && magnitude.iter().all(u8::is_ascii_digit);
        let is_short = magnitude == b"0" && digits.len() == 1 || magnitude.first() != Some(&b'0');
        if !is_plain || !is_short {
            return Err(self.wrong("no number as it is written"));
        }
        // Digits only: text.
        let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
        let number = number.ok_or_else(|| self.wrong("a number beyond 64 bits"))?;
        self.at += len + 1;
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Result<Value<'_>, BencodeError> {
        Value::decode(bytes, Strictness::All)
    }

    #[test]
    fn reads_what_the_specification_shows() {
        assert_eq!(decode(b"4:spam"), Ok(Value::text("spam")));
        assert_eq!(decode(b"i-3e"), Ok(Value::Int(-3)));
        assert_eq!(
            decode(b"l4:spam4:eggse"),
            Ok(Value::List(vec![Value::text("spam"), Value::text("eggs")]))
        );
        let dict = decode(b"d3:cow3:moo4:spam4:eggse").unwrap();
        assert_eq!(dict.get("cow").and_then(Value::as_text), Some("moo"));
        assert_eq!(dict.encode(), b"d3:cow3:moo4:spam4:eggse");
        assert_eq!(Value::decode_first(b"i1erest", Strictness::All), Ok((Value::Int(1), 3)));
        assert_eq!(decode(format!("i{}e", i64::MIN).as_bytes()), Ok(Value::Int(i64::MIN)));
    }

    #[test]
    fn refuses_every_second_way_to_write_a_value() {
        for (bytes, what) in [
            (&b"i-0e"[..], "written"),
            (b"i03e", "written"),
            (b"ie", "written"),
            (b"i+1e", "written"),
            (b"i 1e", "written"),
            (b"03:abc", "written"),
            (b"-1:a", "no value"),
            (b"i9223372036854775808e", "64 bits"),
            (b"i99999999999999999999999999e", "end"),
            (b"4:spa", "longer"),
            (b"99999999999999999999:a", "64 bits"),
            (b"9223372036854775807:a", "longer"),
            (b"d1:bi1e1:ai1ee", "order"),
            (b"d1:ai1e1:ai1ee", "order"),
            (b"di1ei1ee", "end"),
            (b"l", "cut off"),
            (b"d1:a", "cut off"),
            (b"", "cut off"),
            (b"i1ei1e", "behind"),
            (b"x", "no value"),
        ] {
            let error = decode(bytes).unwrap_err();
            assert!(error.what.contains(what), "{}: {error}", String::from_utf8_lossy(bytes));
        }
        let keys = Value::decode(b"d1:bi1e1:ai2ee", Strictness::Keys).unwrap();
        assert_eq!(keys.encode(), b"d1:ai2e1:bi1ee");
        let error = Value::decode(b"d1:bi1e1:ai1e1:bi1ee", Strictness::Keys).unwrap_err();
        assert_eq!(error.what, "a key twice");
    }

    #[test]
    fn bombs_end_at_their_limit() {
        let deep = [vec![b'l'; 1_000_000], vec![b'e'; 1_000_000]].concat();
        assert_eq!(decode(&deep).unwrap_err().what, "nested too deep");
        let deep: Vec<u8> = b"d1:a".repeat(1_000_000);
        assert_eq!(decode(&deep).unwrap_err().what, "nested too deep");
        let wide = [&b"l"[..], &b"le".repeat(100_000), b"e"].concat();
        assert!(decode(&wide).is_ok());
    }

    #[test]
    fn the_raw_bytes_of_a_value_are_those_that_stand_there() {
        let torrent = b"d8:announce3:url4:infod6:lengthi5e4:name1:xe5:otheri1ee";
        let raw = raw_value(torrent, "info", Strictness::All).unwrap();
        assert_eq!(raw, Some(&b"d6:lengthi5e4:name1:xe"[..]));
        assert_eq!(raw_value(torrent, "nothing", Strictness::All).unwrap(), None);
        let mixed = b"d4:infod1:bi1e1:ai2eee";
        assert_eq!(
            raw_value(mixed, "info", Strictness::Keys).unwrap(),
            Some(&b"d1:bi1e1:ai2ee"[..])
        );
        assert!(raw_value(mixed, "info", Strictness::All).is_err());
        assert!(raw_value(b"i1e", "info", Strictness::All).is_err());
    }

    fn values() -> impl Strategy<Value = Value<'static>> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::Int),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::bytes),
        ];
        leaf.prop_recursive(5, 60, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::List),
                prop::collection::btree_map(prop::collection::vec(any::<u8>(), 0..6), inner, 0..6)
                    .prop_map(|dict| Value::dict(dict.into_iter())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in values()) {
            let bytes = value.encode();
            prop_assert_eq!(decode(&bytes).unwrap(), value);
        }

        /// There is one way to write a value.
        #[test]
        fn what_is_read_is_written_so(bytes in prop::collection::vec(prop::sample::select(b"ild0123456789:e-abc".to_vec()), 0..40)) {
            if let Ok(value) = decode(&bytes) {
                prop_assert_eq!(value.encode(), bytes);
            }
        }
    }
}
