//! Control files as Debian archives have them: `Release`, `Packages`, `Sources`; also inside a clear-signed message.
//!
//! Streams: one stanza is held, and of it only the fields that are wanted.

use std::io::{BufRead, Read as _};

/// Most bytes of a line.
pub const LINE_BYTES_MAX: usize = 4 << 20;
/// Most bytes of the fields that are kept of one stanza.
pub const STANZA_BYTES_MAX: usize = 64 << 20;

const SIGNED: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";

/// Some fields of a stanza, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stanza {
    /// The line at which it begins, from 1.
    pub line: u64,
    /// Name as it was asked for, and value: its lines trimmed, one line feed between them.
    pub fields: Vec<(&'static str, String)>,
}

impl Stanza {
    /// The value of a field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| *field == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Reads stanzas one after the other.
#[derive(Debug)]
pub struct Stanzas<R> {
    content: R,
    wanted: &'static [&'static str],
    line: u64,
    buffer: Vec<u8>,
    /// Inside a clear-signed message: before it ends, dashes are escaped.
    is_signed: bool,
    has_ended: bool,
}

impl<R: BufRead> Stanzas<R> {
    /// Of each stanza the `wanted` fields are kept; upper and lower case are the same.
    pub fn new(content: R, wanted: &'static [&'static str]) -> Self {
        Self {
            content,
            wanted,
            line: 0,
            buffer: Vec::new(),
            is_signed: false,
            has_ended: false,
        }
    }

    /// The next stanza; `None` at the end.
    ///
    /// # Errors
    /// What is wrong, with the line, for people.
    pub fn next_stanza(&mut self) -> Result<Option<Stanza>, String> {
        let mut stanza = Stanza::default();
        let mut is_kept = false;
        let mut bytes = 0;
        while let Some(line) = self.next_line()? {
            if line.trim().is_empty() {
                if stanza.line > 0 {
                    break;
                }
                continue;
            }
            if line.starts_with('#') {
                continue;
            }
            if line.starts_with([' ', '\t']) {
                if stanza.line == 0 {
                    return Err(format!("line {}: it continues a field, and there is none", self.line));
                }
                if let Some((_, value)) = stanza.fields.last_mut().filter(|_| is_kept) {
                    bytes += line.len();
                    value.push('\n');
                    value.push_str(line.trim());
                }
            } else {
                let no_field = || format!("line {}: it is no field", self.line);
                let (name, value) = line.split_once(':').ok_or_else(no_field)?;
                if stanza.line == 0 {
                    stanza.line = self.line;
                }
                let wanted = self
                    .wanted
                    .iter()
                    .find(|wanted| wanted.eq_ignore_ascii_case(name.trim_end()));
                is_kept = wanted.is_some();
                if let Some(name) = wanted {
                    bytes += line.len();
                    stanza.fields.push((name, value.trim().to_owned()));
                }
            }
            if bytes > STANZA_BYTES_MAX {
                return Err(format!(
                    "line {}: the stanza has more than {STANZA_BYTES_MAX} bytes",
                    self.line
                ));
            }
        }
        Ok((stanza.line > 0).then_some(stanza))
    }

    /// The next line, without its end; what is not UTF-8 in it is replaced.
    fn next_line(&mut self) -> Result<Option<String>, String> {
        loop {
            let Some(line) = self.raw_line()? else {
                if self.is_signed {
                    return Err(format!("line {}: the signed message is cut short", self.line));
                }
                return Ok(None);
            };
            if self.line == 1 && line == SIGNED {
                self.is_signed = true;
                // Up to the empty line stands which hash was signed.
                while self.raw_line()?.is_some_and(|line| !line.is_empty()) {}
                continue;
            }
            if !self.is_signed {
                return Ok(Some(line));
            }
            if line == SIGNATURE {
                (self.has_ended, self.is_signed) = (true, false);
                return Ok(None);
            }
            let unescaped = line.strip_prefix("- ").map(str::to_owned);
            return Ok(Some(unescaped.unwrap_or(line)));
        }
    }

    fn raw_line(&mut self) -> Result<Option<String>, String> {
        if self.has_ended {
            return Ok(None);
        }
        self.buffer.clear();
        let limit = LINE_BYTES_MAX as u64 + 1;
        let read = (&mut self.content).take(limit).read_until(b'\n', &mut self.buffer);
        self.line += 1;
        let read = read.map_err(|error| format!("line {}: {error}", self.line))?;
        if read == 0 {
            self.has_ended = true;
            return Ok(None);
        }
        if read > LINE_BYTES_MAX {
            return Err(format!("line {}: it has more than {LINE_BYTES_MAX} bytes", self.line));
        }
        let line = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Ok(Some(String::from_utf8_lossy(line).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WANTED: &[&str] = &["Package", "SHA256"];

    fn read(content: &[u8]) -> Result<Vec<Stanza>, String> {
        let mut stanzas = Stanzas::new(content, WANTED);
        let mut found = Vec::new();
        while let Some(stanza) = stanzas.next_stanza()? {
            found.push(stanza);
        }
        Ok(found)
    }

    #[test]
    fn stanzas_are_taken_apart_line_by_line() {
        let text = "# a comment\n\n\npackage: one\nOther: a\n b\nSHA256:\n x 1 a\n\ty 2 b\n \t\n\nPackage : two\r\n";
        let found = read(text.as_bytes()).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].line, found[0].field("Package")), (4, Some("one")));
        assert_eq!(found[0].field("SHA256"), Some("\nx 1 a\ny 2 b"));
        assert_eq!(found[0].field("Other"), None, "it was not asked for");
        assert_eq!(found[1].field("Package"), Some("two"));
        assert_eq!(read(b"").unwrap(), []);
        assert_eq!(
            read(b"Package: \xff\n").unwrap().len(),
            1,
            "a maintainer of the last century"
        );
    }

    #[test]
    fn a_signed_message_ends_where_its_signature_begins() {
        let text = format!("{SIGNED}\nHash: SHA512\n\nPackage: one\n- -dash: x\n{SIGNATURE}\n\nno field\n");
        let found = read(text.as_bytes()).unwrap();
        assert_eq!((found.len(), found[0].field("Package")), (1, Some("one")));
        let cut = format!("{SIGNED}\nHash: SHA512\n\nPackage: one\n");
        assert!(read(cut.as_bytes()).unwrap_err().contains("cut short"));
    }

    #[test]
    fn what_is_no_control_file_is_refused_with_its_line() {
        for (text, word) in [
            ("Package: x\nno field\n", "line 2: it is no field"),
            (" continued\n", "line 1: it continues"),
            ("<html>\n", "line 1: it is no field"),
        ] {
            let error = read(text.as_bytes()).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        let long = vec![b'x'; LINE_BYTES_MAX + 10];
        assert!(read(&long).unwrap_err().contains("more than"));
        let mut stanza = b"SHA256:\n".to_vec();
        let line = [&[b' ', b'x'].repeat(LINE_BYTES_MAX / 4)[..], b"\n"].concat();
        (0..40).for_each(|_| stanza.extend_from_slice(&line));
        assert!(read(&stanza).unwrap_err().contains("the stanza has more than"));
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_they_are_read_or_refused(bytes in "(Package: [a-z]{0,3}|SHA256:|[ \t]x|-----BEGIN PGP SIGNED MESSAGE-----|-----BEGIN PGP SIGNATURE-----|#|\r|\n|.){0,30}") {
            if let Ok(found) = read(bytes.as_bytes()) {
                prop_assert!(found.iter().all(|stanza| stanza.line > 0));
            }
        }
    }
}
