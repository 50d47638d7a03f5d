//! What a torrent and a peer are called.

use std::fmt;
use std::str::FromStr;

/// The name of a torrent: the SHA-1 hash of its `info` dictionary; of version 2 the first 20 bytes of its SHA-256 hash, which is what
/// trackers are told (BEP 52).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHash(pub [u8; 20]);

/// What a peer calls itself. It proves nothing, and is passed on as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerId(pub [u8; 20]);

/// A text that is no info-hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no info-hash: 40 hexadecimal digits (64 of version 2) are expected")]
pub struct InfoHashError(String);

impl FromStr for InfoHash {
    type Err = InfoHashError;

    fn from_str(text: &str) -> Result<Self, InfoHashError> {
        let wrong = || InfoHashError(text.chars().take(80).flat_map(char::escape_debug).collect());
        // Of version 2 in full.
        let is_long = text.len() == 64;
        if !(is_long || text.len() == 40) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 20];
        for (at, slot) in bytes.iter_mut().enumerate() {
            let pair = text.get(2 * at..2 * at + 2).ok_or_else(wrong)?;
            *slot = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InfoHash({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_info_hash_is_forty_hexadecimal_digits() {
        let text = "0123456789abcdef0123456789ABCDEF01234567";
        let hash: InfoHash = text.parse().unwrap();
        assert_eq!(hash.to_string(), text.to_lowercase());
        for wrong in [
            "",
            "01",
            &text[1..],
            &format!("{text}0"),
            &format!("{text}{text}"),
            &text.replace('0', "g"),
            &"+1".repeat(20),
        ] {
            assert!(wrong.parse::<InfoHash>().is_err(), "{wrong}");
        }
        let long: InfoHash = format!("{text}{}", "89abcdef".repeat(3)).parse().unwrap();
        assert_eq!(long, hash, "trackers are told the beginning");
        assert!("é".repeat(20).parse::<InfoHash>().is_err());
    }
}
