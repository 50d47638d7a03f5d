//! Content codings of pages that are made here: gzip and zstd, while they are sent. Published files are never touched:
//! their bytes are the signed ones.
//!
//! Key decision: a page that waits for its client holds no encoder. gzip begins anew with each piece, on an encoder that
//! all pages of a thread share (as pigz does); zstd cannot, so its encoders are small and few, and where there are enough
//! of them a page goes out in blocks of zstd that are not compressed.

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress};
use zstd::zstd_safe::CParameter;

use crate::message::request::coding_weights;

/// Listings compress to a tenth at any level; the lowest ones cost least.
const GZIP_LEVEL: u32 = 3;
const ZSTD_LEVEL: i32 = 1;
/// Lines of a listing are like those just before them. With these an encoder takes some 150 kB.
const ZSTD_WINDOW_LOG: u32 = 15;
const ZSTD_HASH_LOG: u32 = 12;
/// Most encoders of zstd at a time in this process.
const ZSTD_ENCODERS_MAX: usize = 32;
/// Window of frames that are not compressed, and so the longest of their blocks.
const RAW_WINDOW_LOG: u8 = 17;

/// RFC 1952: deflate, no name, no time, of whatever system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The last block of deflate, with nothing in it.
const DEFLATE_END: [u8; 2] = [3, 0];
/// RFC 8878: the magic number, no checksum and no length, the window.
const ZSTD_HEADER: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0, (RAW_WINDOW_LOG - 10) << 3];
/// The last block of zstd, with nothing in it.
const ZSTD_END: [u8; 3] = [1, 0, 0];

thread_local! {
    static DEFLATE: RefCell<Compress> = RefCell::new(Compress::new(Compression::new(GZIP_LEVEL), false));
}

/// Encoders of zstd in use.
static ZSTD_ENCODERS: AtomicUsize = AtomicUsize::new(0);

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
    Gzip(Gzip),
    Zstd(ZstdEncoder),
    /// In the form of zstd, not compressed. Whether it was begun.
    Raw(bool),
}

impl Packer {
    pub(crate) fn new(coding: Coding) -> io::Result<Self> {
        Ok(match coding {
            Coding::Identity => Self::Identity,
            Coding::Gzip => Self::Gzip(Gzip::default()),
            Coding::Zstd => ZstdEncoder::new()?.map_or(Self::Raw(false), Self::Zstd),
        })
    }

    /// Takes the next piece, and gives what is ready to be sent: maybe nothing.
    pub(crate) fn pack(&mut self, piece: Bytes) -> io::Result<Bytes> {
        Ok(match self {
            Self::Identity => piece,
            Self::Gzip(gzip) => gzip.pack(&piece)?.into(),
            Self::Zstd(zstd) => {
                zstd.encoder.write_all(&piece)?;
                std::mem::take(zstd.encoder.get_mut()).into()
            }
            Self::Raw(begun) => raw(!std::mem::replace(begun, true), &piece).into(),
        })
    }

    /// What is left at the end.
    pub(crate) fn finish(self) -> io::Result<Bytes> {
        Ok(match self {
            Self::Identity => Bytes::new(),
            Self::Gzip(gzip) => gzip.finish().into(),
            Self::Zstd(zstd) => zstd.encoder.finish()?.into(),
            Self::Raw(begun) => [&raw(!begun, &[])[..], &ZSTD_END].concat().into(),
        })
    }
}

/// What is known of a gzip file between its pieces.
#[derive(Default)]
pub(crate) struct Gzip {
    begun: bool,
    sum: Crc,
}

impl Gzip {
    /// A piece in blocks that need none before them, and end with a whole byte.
    fn pack(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(piece.len() / 4 + 64);
        self.begin(&mut out);
        self.sum.update(piece);
        DEFLATE.with_borrow_mut(|deflate| {
            deflate.reset();
            let mut rest = piece;
            // Room that is left says that everything was written.
            while !rest.is_empty() || out.len() == out.capacity() {
                out.reserve(1024);
                let before = deflate.total_in();
                deflate.compress_vec(rest, &mut out, FlushCompress::Sync)?;
                let taken = usize::try_from(deflate.total_in() - before).unwrap_or(usize::MAX);
                rest = rest.get(taken..).unwrap_or_default();
            }
            Ok(out)
        })
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            out.extend_from_slice(&GZIP_HEADER);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.begin(&mut out);
        out.extend_from_slice(&DEFLATE_END);
        out.extend_from_slice(&self.sum.sum().to_le_bytes());
        out.extend_from_slice(&self.sum.amount().to_le_bytes());
        out
    }
}

/// One of the few encoders of zstd.
pub(crate) struct ZstdEncoder {
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
    _place: ZstdPlace,
}

/// Its place among them, free again once this is dropped.
struct ZstdPlace;

impl Drop for ZstdPlace {
    fn drop(&mut self) {
        ZSTD_ENCODERS.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ZstdEncoder {
    /// `None`: there are enough.
    fn new() -> io::Result<Option<Self>> {
        let one_more = |count: usize| (count < ZSTD_ENCODERS_MAX).then_some(count + 1);
        if ZSTD_ENCODERS
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .is_err()
        {
            return Ok(None);
        }
        let place = ZstdPlace;
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
        encoder.set_parameter(CParameter::WindowLog(ZSTD_WINDOW_LOG))?;
        encoder.set_parameter(CParameter::HashLog(ZSTD_HASH_LOG))?;
        Ok(Some(Self { encoder, _place: place }))
    }
}

/// A piece in blocks of zstd that are not compressed, behind the frame's header if it is the first.
fn raw(is_first: bool, piece: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(piece.len() + 16);
    if is_first {
        out.extend_from_slice(&ZSTD_HEADER);
    }
    for block in piece.chunks(1 << RAW_WINDOW_LOG) {
        // Its length above three bits: not the last, and raw.
        let header = u32::try_from(block.len()).unwrap_or(0) << 3;
        out.extend_from_slice(&header.to_le_bytes()[..3]);
        out.extend_from_slice(block);
    }
    out
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

    fn packed(mut packer: Packer, pieces: &[String]) -> Vec<u8> {
        let mut packed = Vec::new();
        for piece in pieces {
            packed.extend_from_slice(&packer.pack(piece.clone().into()).unwrap());
        }
        packed.extend_from_slice(&packer.finish().unwrap());
        packed
    }

    fn unpacked(coding: Coding, packed: &[u8]) -> String {
        let mut unpacked = String::new();
        match coding {
            Coding::Identity => unpacked.push_str(std::str::from_utf8(packed).unwrap()),
            // Of one member, and not of several.
            Coding::Gzip => {
                let mut decoder = flate2::read::GzDecoder::new(packed);
                decoder.read_to_string(&mut unpacked).unwrap();
            }
            Coding::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(packed).unwrap().single_frame();
                decoder.read_to_string(&mut unpacked).unwrap();
            }
        }
        unpacked
    }

    #[test]
    fn what_is_packed_is_unpacked_the_same() {
        // What cannot be compressed well.
        let noise = |seed: u32| -> String {
            let step = |last: &u32| Some(last.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
            let numbers = std::iter::successors(Some(seed), step).take(200_000);
            numbers.map(|number| char::from(b' ' + (number >> 26) as u8)).collect()
        };
        for pieces in [
            vec!["first ".repeat(1000), "second ".repeat(1000), String::new()],
            vec![],
            vec!["x".to_owned()],
            vec![noise(1), noise(2), "third ".repeat(100_000)],
        ] {
            let all = pieces.concat();
            for coding in [Coding::Identity, Coding::Gzip, Coding::Zstd] {
                let packed = packed(Packer::new(coding).unwrap(), &pieces);
                assert!(unpacked(coding, &packed) == all, "{coding:?}");
            }
            assert!(unpacked(Coding::Zstd, &packed(Packer::Raw(false), &pieces)) == all);
        }
    }

    #[test]
    fn encoders_that_wait_are_few() {
        let packers: Vec<_> = (0..3 * ZSTD_ENCODERS_MAX)
            .map(|_| Packer::new(Coding::Zstd).unwrap())
            .collect();
        let encoders = packers
            .iter()
            .filter(|packer| matches!(packer, Packer::Zstd(_)))
            .count();
        assert!(encoders <= ZSTD_ENCODERS_MAX, "{encoders}");
        assert!(ZSTD_ENCODERS.load(Ordering::Relaxed) >= encoders);
        let pieces = ["a page ".repeat(1000)];
        for packer in packers {
            assert_eq!(unpacked(Coding::Zstd, &packed(packer, &pieces)), pieces[0]);
        }
        assert!(size_of::<Gzip>() <= 64);
    }
}
