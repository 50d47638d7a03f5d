//! The cache on the real file system: other processes, imports, descriptors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use futures_util::FutureExt;
use instantmirror_core::conformance::{ReadNow as _, WriteNow as _};
use instantmirror_core::traits::{ObjectCache, Objects};
use instantmirror_core::{ObjectId, RepoPath};
use instantmirror_store::StoreError;
use instantmirror_store::cache::{CacheOptions, DiskCache};
use instantmirror_store::disk::RealDisk;
use instantmirror_store::import::{ImportError, ImportMethod, ImportOptions, ImportRequest};
use instantmirror_store::tree::SourceTree;

const DIR_VARIABLE: &str = "TEST_CACHE_DIR";

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the disk cache never waits")
}

fn open(dir: &Path) -> Result<DiskCache, StoreError> {
    DiskCache::open(Arc::new(RealDisk::open(dir)?), CacheOptions::default())
}

fn put(cache: &DiskCache, data: &[u8]) {
    let fill = now(cache.fill(&ObjectId::of(data), data.len() as u64)).unwrap();
    fill.write_now(0, data).unwrap();
    now(fill.finish()).unwrap();
}

/// Not a test of its own: the other process of the next one.
#[test]
fn child_that_owns_a_cache() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else {
        return;
    };
    let cache = open(Path::new(&dir)).unwrap();
    put(&cache, b"from the child");
    eprintln!("ready");
    // Held until the parent kills this process.
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn second_process_is_refused_with_the_pid_and_starts_at_once_after_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_owns_a_cache", "--nocapture"])
        .env(DIR_VARIABLE, dir.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("ready")));
    match open(dir.path()) {
        Err(error @ StoreError::Locked { pid, .. }) => {
            assert_eq!(pid, Some(child.id()));
            assert!(error.to_string().contains(&child.id().to_string()), "{error}");
        }
        other => panic!("{other:?}"),
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let cache = open(dir.path()).unwrap();
    let handle = now(cache.open(&ObjectId::of(b"from the child"))).unwrap().unwrap();
    assert_eq!(handle.read_now(0..14).unwrap(), b"from the child"[..]);
}

#[test]
fn descriptor_reads_the_object_and_the_file_is_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path()).unwrap();
    put(&cache, b"hello");
    let handle = now(cache.open(&ObjectId::of(b"hello"))).unwrap().unwrap();
    let file = File::from(handle.descriptor().unwrap().try_clone_to_owned().unwrap());
    let mut bytes = [0; 5];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"hello");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o444);
    now(cache.remove(&ObjectId::of(b"hello"))).unwrap();
    file.read_exact_at(&mut bytes, 0).unwrap();
}

fn import(data: &[u8], options: ImportOptions) -> (ImportMethod, bool) {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), data).unwrap();
    let cache = open(&dir.path().join("cache")).unwrap();
    let tree = SourceTree::open(&source).unwrap();
    let file = tree.open_file(&RepoPath::new("f").unwrap()).unwrap();
    let request = ImportRequest {
        source: &file,
        object: ObjectId::of(data),
        options,
    };
    let imported = cache.import(&request).unwrap();
    let now_there = tree.list(&RepoPath::ROOT).unwrap().entries;
    assert_eq!(imported.stamp, now_there[0].stamp);
    assert_eq!(cache.import(&request).unwrap().method, ImportMethod::Present);
    fs::remove_file(source.join("f")).unwrap();
    let handle = now(cache.open(&ObjectId::of(data))).unwrap().unwrap();
    assert_eq!(handle.read_now(0..data.len() as u64).unwrap(), data);
    let file = File::from(handle.descriptor().unwrap().try_clone_to_owned().unwrap());
    (
        imported.method,
        file.metadata().unwrap().ino() == now_there[0].stamp.ino,
    )
}

#[test]
fn import_by_copy_and_by_hard_link() {
    for len in [0, 1, 5_000_000] {
        let data = vec![7; len];
        let mut options = ImportOptions::default();
        options.reflink = false;
        let (method, same) = import(&data, options);
        assert_eq!((method, same), (ImportMethod::Copy, false));
        options.hardlink = true;
        let (method, same) = import(&data, options);
        assert_eq!((method, same), (ImportMethod::Hardlink, true));
        // Reflink where this file system can, else a copy.
        let (method, same) = import(&data, ImportOptions::default());
        assert!(matches!(method, ImportMethod::Copy | ImportMethod::Reflink) && !same);
    }
}

#[test]
fn import_of_a_file_that_changed_since_it_was_hashed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "one").unwrap();
    let cache = open(&dir.path().join("cache")).unwrap();
    let tree = SourceTree::open(dir.path()).unwrap();
    let file = tree.open_file(&RepoPath::new("f").unwrap()).unwrap();
    fs::write(dir.path().join("f"), "three").unwrap();
    let mut options = ImportOptions::default();
    options.hardlink = true;
    let request = ImportRequest {
        source: &file,
        object: ObjectId::of(b"one"),
        options,
    };
    let error = cache.import(&request).unwrap_err();
    assert!(
        matches!(error, ImportError::Store(StoreError::SourceChanged { .. })),
        "{error}"
    );
    assert!(now(cache.open(&ObjectId::of(b"one"))).unwrap().is_none());
    assert_eq!(cache.usage().used_bytes + cache.usage().reserved_bytes, 0);
    assert_eq!(fs::read_dir(dir.path().join("cache/partial")).unwrap().count(), 0);
}
