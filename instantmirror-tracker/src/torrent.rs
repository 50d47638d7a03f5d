//! From a `.torrent` file to the info-hashes under which it is announced.

use instantmirror_core::bencode::{BencodeError, Strictness, Value, raw_value};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use crate::InfoHash;

/// Why a file is no torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TorrentError {
    /// It is no bencode.
    #[error("this is no torrent: {0}")]
    Bencode(#[from] BencodeError),
    /// It has no dictionary `info`.
    #[error("this is no torrent: it has no dictionary 'info'")]
    NoInfo,
}

/// The names that clients announce a torrent by: SHA-1 for version 1, the first 20 bytes of SHA-256 for version 2 (BEP 52),
/// both for a hybrid.
///
/// # Errors
/// [`TorrentError`].
pub fn info_hashes(torrent: &[u8]) -> Result<Vec<InfoHash>, TorrentError> {
    let info = raw_value(torrent, "info", Strictness::Keys)?.ok_or(TorrentError::NoInfo)?;
    let value = Value::decode(info, Strictness::Keys)?;
    if value.as_dict().is_none() {
        return Err(TorrentError::NoInfo);
    }
    let is_second = value.get("meta version").and_then(Value::as_int) == Some(2);
    let mut hashes = Vec::new();
    if !is_second || value.get("pieces").is_some() {
        hashes.push(InfoHash(Sha1::digest(info).into()));
    }
    if is_second {
        let mut cut = [0; 20];
        let digest: [u8; 32] = Sha256::digest(info).into();
        cut.copy_from_slice(&digest[..20]);
        hashes.push(InfoHash(cut));
    }
    Ok(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_info_hash_is_that_of_the_bytes_as_they_stand_in_the_file() {
        let one = info_hashes(b"d8:announce3:udp4:infod6:lengthi1e4:name1:xee").unwrap();
        let direct = InfoHash(Sha1::digest(b"d6:lengthi1e4:name1:xe").into());
        assert_eq!(one, [direct]);
        // Keys out of order are hashed as they stand.
        let other = info_hashes(b"d4:infod4:name1:x6:lengthi1eee").unwrap();
        assert_eq!(other, [InfoHash(Sha1::digest(b"d4:name1:x6:lengthi1ee").into())]);
    }

    #[test]
    fn a_hybrid_has_two_names() {
        let both = info_hashes(b"d4:infod12:meta versioni2e6:pieces0:ee").unwrap();
        assert_eq!(both.len(), 2);
        assert_eq!(info_hashes(b"d4:infod12:meta versioni2eee").unwrap(), [both_second()]);
    }

    fn both_second() -> InfoHash {
        let digest: [u8; 32] = Sha256::digest(b"d12:meta versioni2ee").into();
        InfoHash(digest[..20].try_into().unwrap())
    }

    #[test]
    fn what_is_no_torrent_is_said() {
        assert_eq!(info_hashes(b"d3:fooi1ee"), Err(TorrentError::NoInfo));
        assert_eq!(info_hashes(b"d4:infoi1ee"), Err(TorrentError::NoInfo));
        for wrong in [&b""[..], b"<html>", b"d4:info", b"d4:infodeex"] {
            assert!(matches!(info_hashes(wrong), Err(TorrentError::Bencode(_))), "{wrong:?}");
        }
    }
}
