//! Mounts a directory, read into memory, as a snapshot: the file system alone, without a store, a swarm or a daemon. A program with
//! trees of its own implements `Catalogs` in place of `MemoryCatalogs`. It needs root or `fusermount3`, and ends with its input.
//!
//! ```text
//! cargo run -p instantmirror-fuse --example mount DIR MOUNTPOINT
//! ```

#![allow(clippy::print_stdout, reason = "an example that talks")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use instantmirror_core::memory::MemoryCatalogs;
use instantmirror_core::{Name, RepoName, RepoPath, SecretKey, SnapshotId, Timestamp};
use instantmirror_fuse::{Imfs, ImfsOptions, MountOptions, NoSlotStore, SessionOptions, Shown, ThreadExecutor};

type Files = Vec<(RepoPath, Bytes)>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let dir = arguments.next().ok_or("name a directory")?;
    let mountpoint = arguments.next().ok_or("name a mount point")?;
    let (repository, mut files): (RepoName, _) = ("tree".parse()?, Files::new());
    read(&dir, &RepoPath::default(), &mut files)?;
    let (id, key) = (SnapshotId::from_random([1; 16]), SecretKey::from_random([1; 32]));
    let now = Timestamp::from_millis(i64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_millis())?);
    let catalogs = MemoryCatalogs::new();
    catalogs.publish(&repository, files, id, now, &key)?;

    // Numbers of files need not be the same after a restart here; `SlotFile` keeps them.
    let options = ImfsOptions::new(Shown::Repository(repository));
    let imfs = Imfs::new(Arc::new(catalogs), Arc::new(ThreadExecutor), NoSlotStore, options)?;
    let mounted = imfs.mount(MountOptions::new(mountpoint), SessionOptions::default())?;
    println!("mounted {}", mounted.session().mountpoint().display());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    println!("{} files opened", mounted.status().opens);
    Ok(())
}

/// Reads all regular files below a directory.
fn read(dir: &Path, at: &RepoPath, files: &mut Files) -> Result<(), Box<dyn Error>> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let path = at.join(&Name::new(entry.file_name().as_encoded_bytes())?)?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            read(&entry.path(), &path, files)?;
        } else if kind.is_file() {
            files.push((path, std::fs::read(entry.path())?.into()));
        }
    }
    Ok(())
}
