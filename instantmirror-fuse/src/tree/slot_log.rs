//! The log in which the numbers of directories outlive the process: [`SlotStore`], and its records.
//!
//! Key decision: **a record is written before its number is told to anybody, and a number is never given twice.** The log is
//! append-only; each record carries a checksum, and a damaged tail is cut. Records that were lost with it (after a power failure) cannot
//! be known, so after an unclean end numbering goes on [`SKIP`] further up, and the log is made durable at least every
//! [`SYNC_RECORDS`] records, of which there are fewer.
//!
//! | bytes | of a directory | of a snapshot | of a border |
//! |---|---|---|---|
//! | 1 | 1 | 2 | 3: numbers from here on were never given |
//! | 8 | slot | slot | next slot |
//! | | parent's slot (8), place in it (4) | length (1) and text of its repository, a space and its id | |
//! | 4 | the first bytes of the BLAKE3 hash of all before | the same | the same |
//!
//! Numbers are little-endian; the log begins with `IMSLOT1\n`.

use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How far numbering skips ahead after an unclean end.
pub(crate) const SKIP: u64 = 1 << 20;
/// Records after which the log is made durable.
pub(crate) const SYNC_RECORDS: u64 = 1 << 16;

const MAGIC: &[u8] = b"IMSLOT1\n";
const DIRECTORY: u8 = 1;
const SNAPSHOT: u8 = 2;
const BORDER: u8 = 3;
const CHECK_BYTES: usize = 4;
/// How long a file that another mount has is waited for, and how often it is tried.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Keeps the log of directory numbers: a file, or nothing where numbers need not outlive the process.
///
/// Concurrency: one caller at a time. Cancellation: no method is async.
pub trait SlotStore: Debug + Send + 'static {
    /// All bytes that were written, in order; none at first.
    ///
    /// # Errors
    /// The error that kept it from reading.
    fn load(&mut self) -> io::Result<Vec<u8>>;

    /// Adds bytes at the end. When it returns, they outlive the process.
    ///
    /// # Errors
    /// The medium failed or is full; some of the bytes may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was appended outlive a power failure.
    ///
    /// # Errors
    /// The medium failed.
    fn sync(&mut self) -> io::Result<()>;

    /// Replaces everything, durably: after a crash there is the old or the new, whole.
    ///
    /// # Errors
    /// The medium failed or is full; the old is still there.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// A [`SlotStore`] without a medium: numbers are good until the process ends.
#[derive(Debug, Default)]
pub struct NoSlotStore;

impl SlotStore for NoSlotStore {
    fn load(&mut self) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }
    fn append(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn replace(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// A [`SlotStore`] in a file. One process at a time: the file is locked.
#[derive(Debug)]
pub struct SlotFile {
    path: PathBuf,
    file: File,
}

impl SlotFile {
    /// Opens the file, or makes it. Waits a second for a mount that has just ended: its last thread gives the file back.
    ///
    /// # Errors
    /// It cannot be opened, or another mount has it open (`WouldBlock`).
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let until = Instant::now() + LOCK_WAIT;
        loop {
            // Opened anew each time: whoever has it may replace it.
            let file = Self::open_file(&path)?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path)? => return Ok(Self { path, file }),
                // It was replaced between the two steps; the new one is locked by whoever did so.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(LOCK_RETRY),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn open_file(path: &Path) -> io::Result<File> {
        OpenOptions::new().create(true).read(true).append(true).open(path)
    }
}

/// Whether this is the file that the path leads to.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (own, there) = (file.metadata()?, std::fs::metadata(path)?);
    Ok((own.dev(), own.ino()) == (there.dev(), there.ino()))
}

impl SlotStore for SlotFile {
    fn load(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Behind the whole name: logs beside each other may differ in what follows the last dot alone.
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = Self::open_file(&new)?;
        // Locked before it has the name: nobody gets in between.
        file.try_lock()?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        if let Some(directory) = self.path.parent().filter(|path| !path.as_os_str().is_empty()) {
            File::open(directory)?.sync_all()?;
        }
        self.file = file;
        Ok(())
    }
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// The directory at a place of another one has this slot.
    Directory { slot: u64, parent: u64, place: u32 },
    /// The root directory of a snapshot has this slot.
    Snapshot { slot: u64, name: String },
    /// Slots from here on were never given.
    Border(u64),
}

impl Record {
    /// Adds its bytes; those of a whole log begin with [`begin`].
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let at = out.len();
        match self {
            Self::Directory { slot, parent, place } => {
                out.push(DIRECTORY);
                out.extend_from_slice(&slot.to_le_bytes());
                out.extend_from_slice(&parent.to_le_bytes());
                out.extend_from_slice(&place.to_le_bytes());
            }
            Self::Snapshot { slot, name } => {
                out.push(SNAPSHOT);
                out.extend_from_slice(&slot.to_le_bytes());
                // A repository's name has at most 64 bytes, an id 36.
                out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
                out.extend_from_slice(&name.as_bytes()[..name.len().min(usize::from(u8::MAX))]);
            }
            Self::Border(next) => {
                out.push(BORDER);
                out.extend_from_slice(&next.to_le_bytes());
            }
        }
        let check = blake3::hash(&out[at..]);
        out.extend_from_slice(&check.as_bytes()[..CHECK_BYTES]);
    }

    /// The record at the beginning of `bytes`, and its length.
    fn take(bytes: &[u8]) -> Option<(Self, usize)> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let (record, len) = match *bytes.first()? {
            DIRECTORY => {
                let place = u32::from_le_bytes(bytes.get(17..21)?.try_into().ok()?);
                let (slot, parent) = (number(1)?, number(9)?);
                (Self::Directory { slot, parent, place }, 21)
            }
            SNAPSHOT => {
                let end = 10 + usize::from(*bytes.get(9)?);
                let name = std::str::from_utf8(bytes.get(10..end)?).ok()?.to_owned();
                let slot = number(1)?;
                (Self::Snapshot { slot, name }, end)
            }
            BORDER => (Self::Border(number(1)?), 9),
            _ => return None,
        };
        let check = blake3::hash(&bytes[..len]);
        let is_whole = bytes.get(len..len + CHECK_BYTES)? == &check.as_bytes()[..CHECK_BYTES];
        is_whole.then_some((record, len + CHECK_BYTES))
    }
}

/// The beginning of a log.
pub(crate) fn begin() -> Vec<u8> {
    MAGIC.to_vec()
}

/// The records of a log, and whether it is whole to its end. A file that does not begin as a log does is refused: it is another
/// file, which must not be overwritten.
pub(crate) fn parse(bytes: &[u8]) -> io::Result<(Vec<Record>, bool)> {
    let Some(mut rest) = bytes.strip_prefix(MAGIC) else {
        if MAGIC.starts_with(bytes) {
            return Ok((Vec::new(), bytes.is_empty()));
        }
        let text = "it is no log of directory numbers; name another file, or remove this one";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    };
    let mut records = Vec::new();
    while !rest.is_empty() {
        let Some((record, len)) = Record::take(rest) else {
            return Ok((records, false));
        };
        records.push(record);
        rest = &rest[len..];
    }
    Ok((records, true))
}
