//! Reading compressed metadata as a stream: bounded memory, and an end even where the content is made to have none.

use std::io::{self, Read};

/// Most bytes that one metadata file may have when it is unpacked.
pub const UNPACKED_BYTES_MAX: u64 = 64 << 30;
/// Most memory that a decoder of xz may ask for, in KiB: what `xz -9` needs, twice.
const XZ_MEMORY_KIB: u32 = 128 << 10;
/// The largest window of zstd, as a power of two: what `zstd --ultra` makes.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// `.zst`
    Zstd,
    /// `.gz`
    Gzip,
    /// `.xz`
    Xz,
    /// `.bz2`
    Bzip2,
}

impl Packing {
    /// What the end of a name says, and the name without that end.
    #[must_use]
    pub fn of(name: &str) -> (Self, &str) {
        for (end, packing) in [
            (".zst", Self::Zstd),
            (".gz", Self::Gzip),
            (".xz", Self::Xz),
            (".bz2", Self::Bzip2),
        ] {
            if let Some(stem) = name.strip_suffix(end) {
                return (packing, stem);
            }
        }
        (Self::Plain, name)
    }

    /// Reads `packed` unpacked. What is longer than `limit` bytes ends with an error, as does what is cut short.
    ///
    /// # Errors
    /// Those of the decoder when it is made; all others come from reading.
    pub fn unpack<'a>(self, packed: impl Read + 'a, limit: u64) -> io::Result<impl Read + 'a> {
        let inner: Box<dyn Read + 'a> = match self {
            Self::Plain => Box::new(packed),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
            Self::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(packed)),
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(
                io::BufReader::new(packed),
                true,
                XZ_MEMORY_KIB,
            )),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(packed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        };
        Ok(Limited {
            inner,
            limit,
            left: limit,
        })
    }
}

struct Limited<R> {
    inner: R,
    limit: u64,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => {
                let limit = self.limit;
                return Err(io::Error::other(format!(
                    "it has more than {limit} bytes when unpacked"
                )));
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn bzip2(content: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(content: &[u8]) -> Vec<u8> {
        zstd::encode_all(content, 3).unwrap()
    }

    /// "hello\n" as xz 5 writes it.
    const XZ: &[u8] = include_bytes!("hello.xz");

    fn read(packing: Packing, packed: &[u8], limit: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        packing.unpack(packed, limit)?.read_to_end(&mut content)?;
        Ok(content)
    }

    #[test]
    fn each_packing_is_read_whole_and_no_further_than_the_limit() {
        let content = b"hello\n";
        for (packing, packed) in [
            (Packing::Plain, content.to_vec()),
            (Packing::Gzip, gzip(content)),
            (Packing::Bzip2, bzip2(content)),
            (Packing::Zstd, zstd(content)),
            (Packing::Xz, XZ.to_vec()),
        ] {
            assert_eq!(read(packing, &packed, 6).unwrap(), content, "{packing:?}");
            let error = read(packing, &packed, 5).unwrap_err().to_string();
            assert!(error.contains("more than 5 bytes"), "{packing:?}: {error}");
            // Parts that were compressed one by one and put together are one file.
            let twice = [packed.as_slice(), packed.as_slice()].concat();
            assert_eq!(read(packing, &twice, 100).unwrap(), b"hello\nhello\n", "{packing:?}");
            if packing != Packing::Plain {
                assert!(
                    read(packing, &packed[..packed.len() - 3], 100).is_err(),
                    "{packing:?} cut short"
                );
            }
        }
        assert_eq!(Packing::of("a/Packages.xz"), (Packing::Xz, "a/Packages"));
        assert_eq!(Packing::of("Packages"), (Packing::Plain, "Packages"));
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 100_000);
        assert!(read(Packing::Gzip, &bomb, 1 << 20).is_err());
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_reading_ends(bytes in prop::collection::vec(any::<u8>(), 0..400), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            for (packing, mut packed) in [
                (Packing::Gzip, gzip(&bytes)),
                (Packing::Bzip2, bzip2(&bytes)),
                (Packing::Zstd, zstd(&bytes)),
                (Packing::Xz, XZ.to_vec()),
            ] {
                let _ = read(packing, &bytes, 1 << 20);
                let at = at.index(packed.len());
                packed[at] ^= flip;
                let _ = read(packing, &packed, 1 << 20);
            }
        }
    }
}
