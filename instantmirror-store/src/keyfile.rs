//! Key lists in a file: one line that states their hash, then the lists. Masters and nodes keep them alike.

use std::path::Path;

use bytes::Bytes;
use instantmirror_core::keys::KEY_CHAIN_BYTES_MAX;

use crate::disk::{Disk, parent_of, read_file, write_atomically};
use crate::error::{Result, StoreError};

const PREFIX: &str = "instantmirror keys 1 ";
/// The first line.
const LINE_BYTES_MAX: u64 = 256;
const ADVICE: &str = "remove it: a node asks its master for the key lists again; a master needs them from a backup";

/// The lists in a file, `None` if there is none. Whether they are signed is not looked at.
///
/// Errors: [`StoreError::Damaged`] if they are not what was written, [`StoreError::UnknownVersion`], [`StoreError::Io`].
pub fn read_keys(disk: &dyn Disk, path: &Path) -> Result<Option<Bytes>> {
    let content = match read_file(disk, path, KEY_CHAIN_BYTES_MAX as u64 + LINE_BYTES_MAX) {
        Err(error) if error.is_not_found() => return Ok(None),
        content => Bytes::from(content?),
    };
    let damaged = |what: &str| StoreError::damaged(path, what, ADVICE);
    let end = content.iter().take(200).position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| damaged("it has no first line"))?;
    let line = std::str::from_utf8(&content[..end]).map_err(|_| damaged("its first line is no text"))?;
    let Some(hash) = line.strip_prefix(PREFIX) else {
        let version = line
            .strip_prefix("instantmirror keys ")
            .and_then(|rest| rest.split(' ').next()?.parse().ok());
        return Err(match version {
            Some(found) => StoreError::UnknownVersion {
                path: path.to_path_buf(),
                found,
                supported: 1,
            },
            None => damaged("its first line is not ours"),
        });
    };
    let lists = content.slice(end + 1..);
    if blake3::hash(&lists).to_hex().as_str() == hash {
        Ok(Some(lists))
    } else {
        Err(damaged("its content is not what its first line states"))
    }
}

/// Replaces the lists in a file. Durable when it returns.
///
/// Errors: [`StoreError::Io`], [`StoreError::NoSpace`]; the file is as before then.
pub fn write_keys(disk: &dyn Disk, path: &Path, lists: &Bytes) -> Result<()> {
    disk.create_dir_all(parent_of(path))?;
    let hash = blake3::hash(lists).to_hex();
    let content = [format!("{PREFIX}{hash}\n").as_bytes(), lists].concat();
    write_atomically(disk, path, &content)
}
