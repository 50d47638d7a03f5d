//! Reading the content of a file once, from its first byte to its last: what is hashed is what is kept.

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::digest::{ContentDigest, ContentHasher, READ_BYTES};
use crate::disk::DiskFile;
use crate::error::{Result, StoreError};
use crate::objects::ADVICE;
use crate::sparse::{Part, Parts};
use crate::tree::SourceFile;

/// The digest of all of a file.
pub(crate) fn finished(hasher: ContentHasher, source: &SourceFile) -> Result<ContentDigest> {
    let (digest, expected) = (hasher.finish(), source.stamp().size);
    if digest.size() == expected {
        return Ok(digest);
    }
    let what = format!("it had {expected} bytes, {} were read", digest.size());
    let path = source.path().to_path_buf();
    Err(StoreError::SourceChanged { path, what })
}

/// No larger than a file of this size needs: clearing the largest one for each of many small files costs more than
/// hashing them.
fn read_buffer(size: u64) -> Vec<u8> {
    let wanted = usize::try_from(size).unwrap_or(READ_BYTES);
    vec![0; wanted.min(READ_BYTES)]
}

/// Reads the source once: hashes it, and writes it to `target` if there is one, with the holes that it has.
pub(crate) fn copy(
    source: &SourceFile,
    target: Option<&dyn DiskFile>,
    hasher: &mut ContentHasher,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    // What a file has grown by meanwhile is not read: that it has changed is noticed by its stamp.
    let size = source.stamp().size;
    let mut buffer = read_buffer(size);
    let mut has_holes = false;
    for part in Parts::of(Some(source.file()), size) {
        let data = match part {
            Part::Hole(hole) => {
                has_holes = true;
                hasher.update_zeros(hole.end - hole.start, progress);
                continue;
            }
            Part::Data(data) => data,
        };
        let mut position = data.start;
        while position < data.end {
            let room = buffer_for(&mut buffer, data.end - position);
            let read = match source.file().read_at(room, position) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(StoreError::io("read", source.path(), error)),
            };
            hasher.update(&buffer[..read]);
            if let Some(target) = target {
                target.write_at(&buffer[..read], position)?;
            }
            position += read as u64;
            progress(read as u64);
        }
    }
    match target {
        Some(target) if has_holes => target.set_len(size),
        _ => Ok(()),
    }
}

fn buffer_for(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let len = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    &mut buffer[..len]
}

/// Hashes an object that is written already, with the holes that it has.
pub(crate) fn read_all(
    file: &dyn DiskFile,
    path: &Path,
    hasher: &mut ContentHasher,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let len = file.len()?;
    let mut buffer = read_buffer(len);
    for part in Parts::of(file.os_file().map(AsRef::as_ref), len) {
        let data = match part {
            Part::Hole(hole) => {
                hasher.update_zeros(hole.end - hole.start, progress);
                continue;
            }
            Part::Data(data) => data,
        };
        let mut position = data.start;
        while position < data.end {
            let read = file.read_at(buffer_for(&mut buffer, data.end - position), position)?;
            if read == 0 {
                let what = format!("it ends at byte {position} of {len}");
                return Err(StoreError::damaged(path, what, ADVICE));
            }
            hasher.update(&buffer[..read]);
            position += read as u64;
            progress(read as u64);
        }
    }
    Ok(())
}
