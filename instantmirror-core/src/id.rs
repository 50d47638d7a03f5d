//! Identifiers: what an object, a catalog node, a snapshot, a repository and a tag are called.
//!
//! Every identifier is checked when it is made, so code that holds one needs no further check.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not the identifier it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// Not exactly 64 lowercase hexadecimal digits.
    #[error("'{0}' is not a hash: 64 lowercase hexadecimal digits are expected")]
    Hash(String),
    /// Not a UUID in its canonical hyphenated form.
    #[error("'{0}' is not a snapshot id: a UUID like 6f1c0a52-7c1e-4c53-9d3a-0d6f3f8e2b11 is expected")]
    Snapshot(String),
    /// Not a usable repository or tag name.
    #[error("'{0}' is not a valid {1}: use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit")]
    Label(String, &'static str),
}

/// Cuts a text from outside for use in an error message, so that a hostile one cannot fill a log.
fn excerpt(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    fn digit(byte: u8) -> Option<u8> {
        match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        }
    }
    let bytes = text.as_bytes();
    if bytes.len() != 64 {
        return None;
    }
    let mut out = [0; 32];
    for (slot, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *slot = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The id of `content`: its BLAKE3 hash.
            #[must_use]
            pub fn of(content: &[u8]) -> Self {
                Self(*blake3::hash(content).as_bytes())
            }

            /// The id with these 32 bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes of the hash.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Every path of an object is made of it: not byte by byte through the formatter.
                let mut text = String::with_capacity(2 * self.0.len());
                for byte in self.0 {
                    text.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0')));
                }
                f.write_str(&text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex(text).map(Self).ok_or_else(|| IdError::Hash(excerpt(text)))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hash_id! {
    /// Names an object, that is one whole file: the BLAKE3 hash of its content.
    ///
    /// ```
    /// use instantmirror_core::ObjectId;
    /// let id = ObjectId::of(b"");
    /// assert_eq!(id.to_string(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    /// assert_eq!(id.to_string().parse(), Ok(id));
    /// ```
    ObjectId
}

hash_id! {
    /// Names a catalog node: the BLAKE3 hash of its canonical bytes (docs/formats/catalog.md).
    NodeId
}

hash_id! {
    /// Names a snapshot record: the BLAKE3 hash of its bytes. The signed head binds a snapshot to it.
    RecordId
}

/// Names a snapshot: a random UUID, chosen by the master when it publishes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct SnapshotId(uuid::Uuid);

impl SnapshotId {
    /// The version 4 UUID made of 16 random bytes (the caller's: core has no source of randomness).
    #[must_use]
    pub fn from_random(random: [u8; 16]) -> Self {
        Self(uuid::Builder::from_random_bytes(random).into_uuid())
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotId({self})")
    }
}

impl FromStr for SnapshotId {
    type Err = IdError;

    /// Takes the canonical form only, so that a snapshot has exactly one URL.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError::Snapshot(excerpt(text));
        let uuid = uuid::Uuid::try_parse(text).map_err(|_| error())?;
        let id = Self(uuid);
        if id.to_string() == text { Ok(id) } else { Err(error()) }
    }
}

impl<'de> Deserialize<'de> for SnapshotId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

fn is_label(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=64).contains(&bytes.len())
        && plain(bytes[0])
        && bytes.iter().all(|&c| plain(c) || matches!(c, b'.' | b'_' | b'-'))
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Box<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                if is_label(text) { Ok(Self(text.into())) } else { Err(IdError::Label(excerpt(text), $what)) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

label! {
    /// Names a repository: 1 to 64 of `a-z 0-9 . _ -`, beginning with a letter or digit, so that it is
    /// a safe file name and URL segment as it stands.
    RepoName, "repository name"
}

label! {
    /// Names a tag, with the alphabet of [`RepoName`].
    TagName, "tag name"
}

label! {
    /// Names a mirror node at its master, with the alphabet of [`RepoName`].
    NodeName, "node name"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_has_one_spelling() {
        let text = ObjectId::of(b"x").to_string();
        assert!(text.parse::<ObjectId>().is_ok());
        for wrong in [
            text.to_uppercase(),
            text[1..].to_owned(),
            format!("{text}0"),
            "g".repeat(64),
            String::new(),
        ] {
            assert!(wrong.parse::<ObjectId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn snapshot_id_has_one_spelling() {
        let id = SnapshotId::from_random([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in [
            id.to_string().to_uppercase(),
            id.to_string().replace('-', ""),
            format!("{{{id}}}"),
            "x".into(),
        ] {
            assert!(wrong.parse::<SnapshotId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_are_safe_path_segments() {
        for good in ["fedora", "a", "debian-12.1_x", "0"] {
            assert!(good.parse::<RepoName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "-a",
            "A",
            "a/b",
            "a b",
            "ä",
            "a\n",
            &"a".repeat(65),
        ] {
            assert!(bad.parse::<RepoName>().is_err(), "{bad:?}");
        }
    }
}
