//! Programs that read a mount.

use bytes::Bytes;
use instantmirror_fuse::{OpenRequests, SessionOptions};

use crate::memory::{Data, MemoryTree, Node};
use crate::support::{Mounted, caches, drop_caches, is_apart, shell, shell_fails};

/// Bytes that are not like each other.
fn pattern(len: usize) -> Bytes {
    (0..len)
        .map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap())
        .collect::<Vec<_>>()
        .into()
}

#[test]
fn ordinary_programs_read_the_mount() {
    if !is_apart("programs::ordinary_programs_read_the_mount") {
        return;
    }
    let tree = MemoryTree::new();
    let sub = tree.directory(1, "sub");
    let content = pattern(3_000_001);
    tree.file(sub, "big", Data::Cached(content.clone()));
    tree.file(sub, "direct", Data::Direct(content.clone()));
    tree.text(1, "hello", "hello world\n");
    tree.add(1, "link", Node::Symlink(Bytes::from_static(b"sub/big")));
    let hard = |links| Node::File {
        data: Data::Cached(Bytes::from_static(b"same")),
        mode: 0o600,
        ino: Some(424_242),
        links,
    };
    tree.add(1, "one", hard(2));
    tree.add(1, "two", hard(2));
    let mounted = Mounted::new(&tree);
    let at = mounted.path();
    let own = mounted.beside();
    std::fs::write(own.join("content"), &content).unwrap();

    assert_eq!(shell(&at, "ls"), "hello\nlink\none\nsub\ntwo\n");
    assert_eq!(shell(&at, "cat hello"), "hello world\n");
    shell(
        &at,
        "cmp sub/big ../content; cmp sub/direct ../content; cmp link ../content",
    );
    shell(
        &at,
        "cp -a . ../copy; cmp ../copy/sub/direct ../content; test ../copy/one -ef ../copy/two",
    );
    assert_eq!(
        shell(&at, "stat -c '%i %h %a %s %Y %F' one"),
        "424242 2 600 4 1600000000 regular file\n"
    );
    assert_eq!(
        shell(&at, "find . -type f | sort | tr '\\n' ' '"),
        "./hello ./one ./sub/big ./sub/direct ./two "
    );
    assert_eq!(shell(&at, "readlink link"), "sub/big\n");
    shell(
        &at,
        "dd if=sub/big bs=1000 skip=2000 count=10 2>/dev/null >../part; cmp -n 10000 ../part ../content 0 2000000",
    );
    assert_eq!(
        shell(&at, "tail -c 3 sub/big | od -An -tu1"),
        shell(own, "tail -c 3 content | od -An -tu1")
    );
    assert_eq!(
        shell(
            &at,
            "python3 -c 'import os; print(os.getxattr(\"hello\", \"user.number\"), os.listxattr(\"hello\"))'"
        ),
        format!("b'{}' ['user.number']\n", shell(&at, "stat -c %i hello").trim())
    );
    shell(
        &at,
        "python3 -c 'import mmap; f = open(\"sub/big\", \"rb\"); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); \
        assert m[:] == open(\"../content\", \"rb\").read()'",
    );
    let df = shell(&at, "df -l --output=source,fstype,size .");
    assert!(
        df.contains("instantmirror") && df.contains("fuse.imfs") && df.contains("1572864"),
        "{df}"
    );
    assert!(shell_fails(&at, "touch new").contains("Read-only file system"));
    assert!(shell_fails(&at, "rm hello").contains("Read-only file system"));
    assert!(shell_fails(&at, "cat none").contains("No such file"));
    let counters = mounted.session.counters();
    assert_eq!(
        (counters.errors, counters.failed_replies, counters.panics),
        (0, 0, 0),
        "{counters:?}"
    );
    drop(mounted);
}

#[test]
fn programs_run_from_the_mount() {
    if !is_apart("programs::programs_run_from_the_mount") {
        return;
    }
    let tree = MemoryTree::new();
    let program = std::fs::read("/bin/true").unwrap();
    for (name, data) in [
        ("cached", Data::Cached(program.into())),
        ("backed", Data::Backed(std::fs::File::open("/bin/true").unwrap())),
    ] {
        let (mode, ino, links) = (0o755, None, 1);
        tree.add(1, name, Node::File { data, mode, ino, links });
    }
    let mounted = Mounted::new(&tree);
    shell(&mounted.path(), "./cached; ./backed");
}

#[test]
fn listings_of_200000_names_are_whole_and_kept() {
    if !is_apart("programs::listings_of_200000_names_are_whole_and_kept") {
        return;
    }
    let _caches = caches();
    let tree = MemoryTree::new();
    tree.crowd(1, "crowd", 200_000);
    tree.crowd(1, "few", 2_000);
    let mounted = Mounted::new(&tree);
    let at = mounted.path();
    let listing = "ls -f crowd | grep -c file-; ls -f crowd | sort | uniq -d | wc -l";
    assert_eq!(shell(&at, listing), "200000\n0\n");
    // The kernel keeps a listing: no OPENDIR, and no more requests. It may drop pages at any time, so a short listing is asked
    // for a few times.
    let asked = || mounted.count("readdirplus") + mounted.count("readdir");
    let is_kept = (0..20).any(|_| {
        let before = asked();
        assert_eq!(shell(&at, "ls -f few | grep -c file-"), "2000\n");
        asked() == before
    });
    assert!(is_kept, "{:?}", mounted.session.counters());
    assert_eq!(mounted.count("opendir"), 1);
    // Attributes came with the names.
    assert_eq!(shell(&at, "find crowd -type f -size 0 | wc -l"), "200000\n");
    assert!(mounted.count("lookup") < 10, "{:?}", mounted.session.counters());
}

#[test]
fn passthrough_opens_once_and_reads_nothing() {
    if !is_apart("programs::passthrough_opens_once_and_reads_nothing") {
        return;
    }
    let tree = MemoryTree::new();
    let content = pattern(5_000_000);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("content");
    std::fs::write(&path, &content).unwrap();
    tree.file(1, "file", Data::Backed(std::fs::File::open(&path).unwrap()));
    let mounted = Mounted::new(&tree);
    if !mounted.session.protocol().has_passthrough() {
        println!("skipped: this kernel has no passthrough");
        return;
    }
    shell(&mounted.path(), &format!("cmp file {}", path.display()));
    if let Some(error) = *tree.back_error.lock().unwrap() {
        println!("skipped: no backing files here: {error}");
        return;
    }
    let counters = mounted.session.counters();
    assert_eq!((counters.operations_of("open"), counters.operations_of("read")), (1, 0));
    assert_eq!((counters.passthrough_opens, counters.read_bytes), (1, 0));
    crate::support::eventually("the release", || mounted.session.counters().open_files == 0);
    assert_eq!(mounted.session.counters().backing_files, 0);
    // Two at a time share the id, also of a mapped file.
    shell(
        &mounted.path(),
        &format!(
            "exec 3<file; cmp file {}; cat <&3 | cmp - {}",
            path.display(),
            path.display()
        ),
    );
}

#[test]
fn files_served_by_the_daemon_are_kept_by_the_kernel() {
    if !is_apart("programs::files_served_by_the_daemon_are_kept_by_the_kernel") {
        return;
    }
    let _caches = caches();
    let tree = MemoryTree::new();
    let content = pattern(4 << 20);
    tree.file(1, "file", Data::Cached(content));
    let mounted = Mounted::new(&tree);
    let sum = shell(&mounted.path(), "md5sum file");
    let reads = mounted.count("read");
    assert!(mounted.session.is_read_ahead_set());
    assert!(reads <= 16, "{reads} reads of 4 MiB");
    assert_eq!(shell(&mounted.path(), "md5sum file"), sum);
    assert_eq!((mounted.count("read"), mounted.count("open")), (reads, 2));
}

#[test]
fn without_open_requests_the_kernel_asks_once() {
    if !is_apart("programs::without_open_requests_the_kernel_asks_once") {
        return;
    }
    let caches = caches();
    let tree = MemoryTree::new();
    for number in 0..50 {
        tree.text(1, &format!("file-{number}"), "some text\n");
    }
    let mounted = Mounted::with(&tree, SessionOptions::default().open(OpenRequests::Never));
    assert_eq!(shell(&mounted.path(), "cat file-* | wc -l"), "50\n");
    assert_eq!(
        (mounted.count("open"), mounted.count("read"), mounted.count("release")),
        (1, 50, 0)
    );
    drop_caches(&caches);
    assert_eq!(shell(&mounted.path(), "cat file-* | wc -l"), "50\n");
    assert_eq!(mounted.count("open"), 1);
    assert_eq!(mounted.session.counters().open_files, 0);
}
