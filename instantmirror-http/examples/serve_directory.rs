//! Serves a directory over HTTP, read into memory: the HTTP server alone, without a store, a swarm or a daemon. Whoever has trees
//! of their own implements `Catalogs` in place of `MemoryCatalogs`.
//!
//! ```text
//! cargo run -p instantmirror-http --no-default-features --example serve_directory DIR
//! ```

#![allow(clippy::print_stdout, reason = "an example that talks")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use instantmirror_core::memory::MemoryCatalogs;
use instantmirror_core::{Name, RepoName, RepoPath, SecretKey, SnapshotId, Timestamp};
use instantmirror_http::{Mount, Mounts, Server, Service};

type Files = Vec<(RepoPath, Bytes)>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).ok_or("name a directory")?;
    let (repository, mut files): (RepoName, _) = ("tree".parse()?, Files::new());
    read(&PathBuf::from(dir), &RepoPath::default(), &mut files)?;
    println!("{} files", files.len());

    let now = Timestamp::from_millis(i64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_millis())?);
    // Heads are for mirrors, which trust a key; readers of files see neither.
    let (id, key) = (SnapshotId::from_random([1; 16]), SecretKey::from_random([1; 32]));
    let catalogs = MemoryCatalogs::new();
    catalogs.publish(&repository, files, id, now, &key)?;

    let mut mount = Mount::new(RepoPath::default(), repository);
    mount.index = true;
    let service = Service::new(Arc::new(catalogs)).with_mounts(Mounts::new(vec![mount])?);
    let server = Server::bind("127.0.0.1:0".parse()?).await?;
    for url in server.urls() {
        println!("serving {url}");
    }
    server.serve(Arc::new(service), std::future::pending()).await;
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
