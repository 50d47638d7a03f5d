//! What of a source tree is published: excluded paths, modes, symlinks, unreadable files, as an operator and readers see it.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use instantmirror_testkit::command::{clean_command, run};
use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, poll};

use crate::publish::control;
use crate::world::{LIMIT, Master, Node};

fn write(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, path.to_str().unwrap()).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_is_closed_or_excluded_stays_out_until_it_is_opened() {
    let dir = TestDir::new("e2e-source-rules").unwrap();
    let source = dir.folder("source").unwrap();
    for path in [
        "open/file",
        "release/iso",
        "release/deep/sum",
        "key",
        "lost+found/x",
        "open/half.part",
    ] {
        write(&source.join(path));
    }
    chmod(&source.join("release"), 0o750);
    chmod(&source.join("key"), 0o600);
    chmod(&source.join("lost+found"), 0o700);
    symlink(source.join("open/file"), source.join("release/latest")).unwrap();
    symlink("/etc/hostname", source.join("away")).unwrap();
    symlink("nothing", source.join("broken")).unwrap();
    let options = "exclude = [\"lost+found/\", \"*.part\"]\nsymlinks = \"rewrite\"";
    let mut master = Master::with_options(&dir, &[("r", &source)], options);
    let said = master.run(&["publish", "r"]);
    for part in [
        "1 file, ",
        "left out: 2 excluded, the first is lost+found",
        "left out: 2 private, the first is key: closed to others (mode 0600)",
        "symlinks out of the tree: 1, such as away -> /etc/hostname",
        "symlinks to what is not there or not published: 1, such as broken -> nothing",
    ] {
        assert!(said.text().contains(part), "{part}\n{}", said.transcript());
    }
    master.serve();
    let base = format!("{}/r/snap/current", master.url());
    let status = |path: &str| http::get(&format!("{base}/{path}")).unwrap().status;
    for path in ["key", "release/", "release/iso", "lost+found/x", "open/half.part"] {
        assert_eq!(status(path), 404, "{path}");
    }
    // The day of the release: nothing but a mode changes, and the watch takes it up.
    let mut watch = master.start(&["watch", "r", "--settle", "200ms"], "watch");
    watch.wait_for_line("nothing has changed", LIMIT).unwrap();
    chmod(&source.join("release"), 0o755);
    poll(LIMIT, || (status("release/deep/sum") == 200).then_some(())).expect("the release opens");
    let copy = dir.path().join("latest");
    let mut wget = clean_command("wget");
    run(
        wget.args(["-q", "-O"]).arg(&copy).arg(format!("{base}/release/latest")),
        LIMIT,
    )
    .unwrap();
    assert_eq!(
        std::fs::read(&copy).unwrap(),
        std::fs::read(source.join("open/file")).unwrap()
    );
    assert!(watch.terminate(LIMIT).unwrap().success());
    // A full scan comes to the same.
    let said = master.run(&["publish", "r"]).transcript();
    assert!(said.contains("nothing has changed"), "{said}");
    write(&source.join("open/more"));
    let (_, done) = control(&master, "/.im/publish/r", r#"{"changed": ["open", "key"]}"#);
    assert_eq!(
        done["details"]["left_out"]["private"]["examples"]["key"],
        "closed to others (mode 0600)"
    );
    assert_eq!(done["details"]["left_out"]["excluded"]["count"], 1, "{done}");
}

#[test]
fn a_tree_that_is_all_closed_is_refused_and_the_key_to_set_is_named() {
    let dir = TestDir::new("e2e-closed-tree").unwrap();
    let source = dir.folder("source").unwrap();
    for path in ["open/file", "release/iso", "key"] {
        write(&source.join(path));
    }
    chmod(&source.join("key"), 0o600);
    let master = Master::new(&dir, &[("r", &source)]);
    master.publish("r");
    // As a file system without modes shows it: nothing could be published.
    for path in ["open", "release"] {
        chmod(&source.join(path), 0o700);
    }
    let (code, said) = master.fail(&["publish", "r"]);
    assert!(code == 1 && said.contains("set private = \"publish\""), "{said}");
    master.run(&["publish", "r", "--allow-empty"]);
    let text = std::fs::read_to_string(&master.config).unwrap();
    std::fs::write(&master.config, text.clone() + "private = \"publish\"\n").unwrap();
    // The rules are others: hints are no ground to take over the rest.
    let said = master.run(&["publish", "r", "--changed", "key"]).transcript();
    assert!(said.contains("rules are others") && said.contains("3 files"), "{said}");
    std::fs::write(&master.config, text + "private = \"refuse\"\n").unwrap();
    let (_, said) = master.fail(&["publish", "r"]);
    assert!(
        said.contains("3 path(s)") && said.contains("release: closed to others (mode 0700)"),
        "{said}"
    );
}

/// A file system in an image file, mounted by way of the next loop device that is free.
struct Loop {
    at: std::path::PathBuf,
}

impl Loop {
    fn mount(image: &Path, at: &Path) -> Self {
        run(clean_command("mount").args(["-o", "loop"]).args([image, at]), LIMIT).unwrap();
        Self { at: at.to_path_buf() }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let unmounted = run(clean_command("umount").arg(&self.at), LIMIT);
        assert!(unmounted.is_ok() || std::thread::panicking(), "{unmounted:?}");
    }
}

#[test]
fn a_tree_that_has_another_device_number_is_not_read_again() {
    let dir = TestDir::new("e2e-device").unwrap();
    let (source, other) = (dir.folder("source").unwrap(), dir.folder("other").unwrap());
    let images = ["one", "two"].map(|name| {
        let image = dir.path().join(name);
        std::fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        run(clean_command("mkfs.ext4").arg("-q").arg(&image), LIMIT).unwrap();
        image
    });
    let device = || std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(&source).unwrap());
    let mounted = Loop::mount(&images[0], &source);
    (0..30).for_each(|n| write(&source.join(format!("d{}/f{n}", n % 3))));
    let before = device();
    let master = Master::with_options(&dir, &[("r", &source)], "exclude = [\"lost+found/\"]");
    // Time stamps within two seconds of the scan are not relied on.
    std::thread::sleep(std::time::Duration::from_millis(3100));
    master.publish("r");
    drop(mounted);
    let _taken = Loop::mount(&images[1], &other);
    let _mounted = Loop::mount(&images[0], &source);
    assert_ne!(device(), before, "the first loop device is taken");
    assert!(master.run(&["publish", "r"]).text().contains("nothing has changed"));
    write(&source.join("new"));
    let said = master.run(&["publish", "r"]).text();
    assert!(
        said.contains("31 files") && said.contains("1 new or changed file "),
        "{said}"
    );
}

#[test]
fn a_sparse_file_is_sparse_on_master_and_mirror() {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};
    const SIZE: u64 = 64 << 20;
    let dir = TestDir::new("e2e-sparse").unwrap();
    let source = dir.folder("source").unwrap();
    let image = std::fs::File::create(source.join("image")).unwrap();
    image.set_len(SIZE).unwrap();
    image.write_all_at(b"begin", 0).unwrap();
    image.write_all_at(b"end", SIZE - 3).unwrap();
    image.sync_all().unwrap();
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = master.publish("r");
    master.serve();
    let node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &snapshot);
    let copy = dir.path().join("copy");
    let url = format!("{}/r/snap/current/image", node.url());
    run(clean_command("curl").args(["-sSf", "-o"]).arg(&copy).arg(url), LIMIT).unwrap();
    run(clean_command("cmp").args([copy, source.join("image")]), LIMIT).unwrap();
    // Blocks of 512 bytes on the disk, of all that is so large.
    let blocks = |below: &Path| {
        let mut found = clean_command("find");
        let found = run(found.arg(below).args(["-type", "f", "-size", "+60M"]), LIMIT).unwrap();
        let files: Vec<u64> = found
            .text()
            .lines()
            .map(|file| std::fs::metadata(file).unwrap().blocks())
            .collect();
        assert_eq!(files.len(), 1, "{}", found.transcript());
        files[0] * 512
    };
    for storage in [master.dir.join("store"), dir.path().join("node")] {
        let allocated = blocks(&storage);
        assert!(allocated < 1 << 20, "{}: {allocated} B", storage.display());
    }
    // The limit of a cache counts what readers see.
    let used = node.status()["cache"]["used_bytes"].as_u64().unwrap();
    assert!(used >= SIZE, "{used}");
}
