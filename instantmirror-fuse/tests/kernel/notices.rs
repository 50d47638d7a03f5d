//! Notices to the kernel: names that move or expire, inodes that change, and what it asks by number alone.

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use instantmirror_fuse::{InodeId, SessionOptions, Validity};

use crate::memory::{Data, MemoryTree, Node};
use crate::support::{Mounted, caches, drop_caches, eventually, is_apart, shell, shell_fails};

#[test]
fn expired_names_keep_mounts_and_dropped_names_lose_them() {
    if !is_apart("notices::expired_names_keep_mounts_and_dropped_names_lose_them") {
        return;
    }
    let tree = MemoryTree::new();
    let snapshot = tree.directory(1, "snapshot");
    tree.directory(snapshot, "inner");
    let mounted = Mounted::new(&tree);
    if !mounted.session.protocol().has_expiry() {
        println!("skipped: this kernel cannot expire names");
        return;
    }
    let at = mounted.path();
    shell(
        &at,
        "mkdir ../bound; echo inside >../bound/file; mount --bind ../bound snapshot/inner",
    );
    let lookups = mounted.count("lookup");
    tree.kernel().expire_entry(InodeId::ROOT, b"snapshot").unwrap();
    assert_eq!(shell(&at, "cat snapshot/inner/file"), "inside\n");
    assert!(mounted.count("lookup") > lookups, "the name is looked up anew");
    tree.kernel().invalidate_entry(InodeId::ROOT, b"snapshot").unwrap();
    assert!(shell_fails(&at, "cat snapshot/inner/file").contains("No such file"));
    // Names that the kernel does not know are nothing to complain of.
    tree.kernel().expire_entry(InodeId::ROOT, b"never seen").unwrap();
    tree.kernel().invalidate_entry(InodeId(4711), b"snapshot").unwrap();
}

#[test]
fn a_link_that_moves_is_fresh_at_once() {
    if !is_apart("notices::a_link_that_moves_is_fresh_at_once") {
        return;
    }
    let tree = MemoryTree::new();
    let link = |target: &'static str| Node::Symlink(Bytes::from_static(target.as_bytes()));
    tree.add(1, "current", link("one"));
    let mounted = Mounted::new(&tree);
    let at = mounted.path();
    assert_eq!(shell(&at, "readlink current; readlink current"), "one\none\n");
    assert_eq!(mounted.count("readlink"), 1, "the kernel keeps targets");
    tree.add(1, "current", link("two"));
    assert_eq!(shell(&at, "readlink current"), "one\n", "not told yet");
    tree.kernel().invalidate_entry(InodeId::ROOT, b"current").unwrap();
    assert_eq!(shell(&at, "readlink current"), "two\n");
}

#[test]
fn listings_that_change_are_fresh_after_a_notice() {
    if !is_apart("notices::listings_that_change_are_fresh_after_a_notice") {
        return;
    }
    let _caches = caches();
    let tree = MemoryTree::new();
    tree.text(1, "one", "1");
    let mounted = Mounted::new(&tree);
    let at = mounted.path();
    assert!(shell_fails(&at, "cat two").contains("No such file"));
    assert_eq!(shell(&at, "ls; ls"), "one\none\n");
    tree.text(1, "two", "2");
    assert_eq!(shell(&at, "ls"), "one\n", "kept by the kernel");
    tree.kernel().invalidate_inode(InodeId::ROOT).unwrap();
    assert_eq!(shell(&at, "ls"), "one\ntwo\n");
    tree.kernel().expire_entry(InodeId::ROOT, b"two").unwrap();
    assert_eq!(shell(&at, "cat two"), "2", "the absence was kept too, and has expired");
}

/// Opens files by handles before and after the kernel has forgotten them, and prints what is in them; libc has them, the standard
/// library has not. The handles are kept in the file that is named first, and made if there is none.
pub(crate) const HANDLES: &str = r#"
import ctypes, os, pickle, sys
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]
def handle(path):
    handle, mount = Handle(128), ctypes.c_int()
    if libc.name_to_handle_at(-100, path.encode(), ctypes.byref(handle), ctypes.byref(mount), 0) != 0:
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    return handle
def read(root, handle):
    fd = libc.open_by_handle_at(root, ctypes.byref(handle), os.O_RDONLY)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return os.listdir(fd) if os.path.isdir(f"/proc/self/fd/{fd}") else os.read(fd, 100)
if not os.path.exists(sys.argv[1]):
    made = [bytes(handle(path)) for path in sys.argv[2:]]
    pickle.dump(made, open(sys.argv[1], "wb"))
handles = [Handle.from_buffer_copy(kept) for kept in pickle.load(open(sys.argv[1], "rb"))]
root = os.open(".", os.O_RDONLY)
for _ in range(2):
    print([read(root, handle) for handle in handles])
    open("/proc/sys/vm/drop_caches", "w").write("3")
"#;

#[test]
fn handles_outlive_what_the_kernel_remembers() {
    if !is_apart("notices::handles_outlive_what_the_kernel_remembers") {
        return;
    }
    let _caches = caches();
    let tree = MemoryTree::with_validity(Validity::For(Duration::ZERO));
    let sub = tree.directory(1, "sub");
    let deep = tree.directory(sub, "deep");
    tree.text(deep, "file", "content");
    let mounted = Mounted::new(&tree);
    let mut python = Command::new("python3");
    python
        .args(["-c", HANDLES, "../handles", "sub/deep/file", "sub/deep"])
        .current_dir(mounted.path());
    let output = crate::support::run(&mut python);
    let wanted = "[b'content', ['file']]\n";
    assert_eq!(crate::support::text(&output), wanted.repeat(2));
}

#[test]
fn nothing_is_kept_that_must_not_be() {
    if !is_apart("notices::nothing_is_kept_that_must_not_be") {
        return;
    }
    let tree = MemoryTree::with_validity(Validity::For(Duration::ZERO));
    tree.text(1, "file", "old");
    let mounted = Mounted::new(&tree);
    let at = mounted.path();
    assert_eq!(shell(&at, "stat -c %s file"), "3\n");
    assert!(shell_fails(&at, "cat other").contains("No such file"));
    tree.text(1, "file", "newer");
    tree.text(1, "other", "");
    assert_eq!(shell(&at, "stat -c %s file; cat other"), "5\n");
}

#[test]
fn descriptors_of_backing_files_may_be_closed() {
    if !is_apart("notices::descriptors_of_backing_files_may_be_closed") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("content");
    std::fs::write(&path, "content").unwrap();
    let tree = MemoryTree::new();
    let file = tree.file(1, "file", Data::Backed(std::fs::File::open(&path).unwrap()));
    let mounted = Mounted::with(&tree, SessionOptions::default());
    let open = std::fs::File::open(mounted.path().join("file")).unwrap();
    if tree.back_error.lock().unwrap().is_some() || !mounted.session.protocol().has_passthrough() {
        println!("skipped: no backing files here");
        return;
    }
    std::fs::remove_file(&path).unwrap();
    tree.forget_content(file);
    let caches = caches();
    drop_caches(&caches);
    assert_eq!(std::io::read_to_string(&open).unwrap(), "content");
    assert_eq!(mounted.session.counters().backing_files, 1);
    drop(open);
    eventually("the release", || mounted.session.counters().backing_files == 0);
}
