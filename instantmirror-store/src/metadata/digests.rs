//! Hashes as metadata states them.

use std::io::Read;

use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Sha224, Sha256, Sha384, Sha512};

/// Hash functions that are strong enough to be worth reading a file for; of a file with only an MD5 the size is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HashKind {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl HashKind {
    /// By the name that yum repositories use.
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "sha" | "sha1" => Some(Self::Sha1),
            "sha224" => Some(Self::Sha224),
            "sha256" => Some(Self::Sha256),
            "sha384" => Some(Self::Sha384),
            "sha512" => Some(Self::Sha512),
            _ => None,
        }
    }

    /// The name for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA-1",
            Self::Sha224 => "SHA-224",
            Self::Sha256 => "SHA-256",
            Self::Sha384 => "SHA-384",
            Self::Sha512 => "SHA-512",
        }
    }

    pub(super) fn hasher(self) -> Box<dyn DynDigest> {
        match self {
            Self::Sha1 => Box::new(Sha1::default()),
            Self::Sha224 => Box::new(Sha224::default()),
            Self::Sha256 => Box::new(Sha256::default()),
            Self::Sha384 => Box::new(Sha384::default()),
            Self::Sha512 => Box::new(Sha512::default()),
        }
    }
}

/// A hash that metadata states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) kind: HashKind,
    /// In lowercase hexadecimal digits.
    hex: String,
}

impl Digest {
    pub(super) fn new(kind: HashKind, hex: &str) -> Self {
        let hex = hex.trim().to_ascii_lowercase();
        Self { kind, hex }
    }

    pub(super) fn is(&self, bytes: &[u8]) -> bool {
        self.hex.len() == bytes.len() * 2 && hex(bytes) == self.hex
    }

    /// Reads all of a file to compare.
    pub(super) fn is_of(&self, content: &mut dyn Read) -> std::io::Result<bool> {
        let mut hasher = self.kind.hasher();
        let mut buffer = vec![0; crate::digest::READ_BYTES];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => return Ok(self.is(&hasher.finalize())),
                Ok(read) => hasher.update(&buffer[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hashes and counts what is read through it.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: Option<Box<dyn DynDigest>>,
    bytes: u64,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R, kind: Option<HashKind>) -> Self {
        let hasher = kind.map(HashKind::hasher);
        Self {
            inner,
            hasher,
            bytes: 0,
        }
    }

    /// Bytes that were read, and their hash.
    pub(super) fn finish(self) -> (u64, Option<Box<[u8]>>) {
        (self.bytes, self.hasher.map(DynDigest::finalize))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if let (Some(hasher), Some(bytes)) = (&mut self.hasher, buffer.get(..read)) {
            hasher.update(bytes);
        }
        self.bytes += read as u64;
        Ok(read)
    }
}
