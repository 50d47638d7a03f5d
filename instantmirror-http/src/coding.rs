//! Content codings of pages that are made here: gzip and zstd, while they are sent. Published files are never touched:
//! their bytes are the signed ones.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::write::GzEncoder;

use crate::request::coding_weights;

/// Listings compress to a tenth at any level; the lowest ones cost least.
const GZIP_LEVEL: u32 = 3;
const ZSTD_LEVEL: i32 = 1;

/// How a page is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Coding {
    /// Not at all.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// The coding that a client with this Accept-Encoding likes best; of several the one that packs best. `*` stands for
    /// gzip, which all who know any coding know. A client that refuses everything gets the page as it is.
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        let Some(accept) = accept else { return Self::Identity };
        let (zstd, _) = coding_weights(accept, "zstd");
        let (gzip, any) = coding_weights(accept, "gzip");
        let (x_gzip, _) = coding_weights(accept, "x-gzip");
        let (identity, _) = coding_weights(accept, "identity");
        // A page as it is goes without saying: it is liked less than what the client has named.
        let plain = identity.or(any.filter(|weight| *weight == 0)).unwrap_or(1);
        let packed = [(Self::Zstd, zstd), (Self::Gzip, gzip.or(x_gzip).or(any))];
        let packed = packed
            .into_iter()
            .filter_map(|(coding, weight)| Some((coding, weight?)));
        packed
            .filter(|(_, weight)| *weight > 0 && *weight >= plain)
            .reduce(|best, next| if next.1 > best.1 { next } else { best })
            .map_or(Self::Identity, |(coding, _)| coding)
    }

    /// Its name in Content-Encoding; `None` for [`Identity`](Self::Identity).
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }
}

/// Packs a page piece by piece.
pub(crate) enum Packer {
    Identity,
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Packer {
    pub(crate) fn new(coding: Coding) -> io::Result<Self> {
        Ok(match coding {
            Coding::Identity => Self::Identity,
            Coding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL))),
            Coding::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?),
        })
    }

    /// Takes the next piece, and gives what is ready to be sent: maybe nothing.
    pub(crate) fn pack(&mut self, piece: Bytes) -> io::Result<Bytes> {
        Ok(match self {
            Self::Identity => piece,
            Self::Gzip(encoder) => {
                encoder.write_all(&piece)?;
                std::mem::take(encoder.get_mut()).into()
            }
            Self::Zstd(encoder) => {
                encoder.write_all(&piece)?;
                std::mem::take(encoder.get_mut()).into()
            }
        })
    }

    /// What is left at the end.
    pub(crate) fn finish(self) -> io::Result<Bytes> {
        Ok(match self {
            Self::Identity => Bytes::new(),
            Self::Gzip(encoder) => encoder.finish()?.into(),
            Self::Zstd(encoder) => encoder.finish()?.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_coding_is_what_the_client_likes_best() {
        use Coding::{Gzip, Identity, Zstd};
        for (accept, expected) in [
            ("gzip", Gzip),
            ("GZIP", Gzip),
            ("x-gzip", Gzip),
            ("gzip, deflate, br, zstd", Zstd),
            ("gzip, deflate, br", Gzip),
            ("zstd;q=0.5, gzip", Gzip),
            ("zstd;q=0, gzip;q=0.001", Gzip),
            ("gzip;q=0", Identity),
            ("gzip;q=0.0, zstd;q=0.000", Identity),
            ("gzip;q=nonsense", Identity),
            ("*", Gzip),
            ("*;q=0", Identity),
            ("*;q=0.5, gzip;q=0", Identity),
            ("identity", Identity),
            ("identity, gzip;q=0.5", Identity),
            ("identity;q=0.5, gzip;q=0.5", Gzip),
            ("identity;q=0, *", Gzip),
            ("identity;q=0", Identity),
            ("identity;q=0, zstd;q=0.1", Zstd),
            ("deflate", Identity),
            ("", Identity),
        ] {
            assert_eq!(Coding::accepted(Some(accept)), expected, "{accept:?}");
        }
        assert_eq!(Coding::accepted(None), Identity);
    }

    #[test]
    fn what_is_packed_is_unpacked_the_same() {
        let pieces = ["first ".repeat(1000), "second ".repeat(1000), String::new()];
        let all = pieces.concat();
        for coding in [Coding::Identity, Coding::Gzip, Coding::Zstd] {
            let mut packer = Packer::new(coding).unwrap();
            let mut packed = Vec::new();
            for piece in &pieces {
                packed.extend_from_slice(&packer.pack(piece.clone().into()).unwrap());
            }
            packed.extend_from_slice(&packer.finish().unwrap());
            let mut unpacked = String::new();
            match coding {
                Coding::Identity => unpacked = String::from_utf8(packed).unwrap(),
                Coding::Gzip => {
                    flate2::read::GzDecoder::new(&packed[..])
                        .read_to_string(&mut unpacked)
                        .unwrap();
                }
                Coding::Zstd => unpacked = String::from_utf8(zstd::decode_all(&packed[..]).unwrap()).unwrap(),
            }
            assert_eq!(unpacked, all, "{coding:?}");
        }
    }
}
