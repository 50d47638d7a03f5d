//! Damage on a node's disk, found and mended; and mirrors that are on the disk already, adopted.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use instantmirror_testkit::command::{clean_command, run, run_any};
use instantmirror_testkit::process::{TestDir, poll};
use instantmirror_testkit::tree::noise;

use crate::cache::{cached, configure};
use crate::world::{LIMIT, Master, Node};

const FILES: usize = 24;

fn content(file: usize) -> Vec<u8> {
    let mut bytes = noise(1000 + file * 40_000);
    bytes[..8].copy_from_slice(&(file as u64).to_le_bytes());
    bytes
}

fn world(name: &str) -> (TestDir, PathBuf, Master, Node) {
    let dir = TestDir::new(name).unwrap();
    let source = dir.folder("source/sub").unwrap();
    for file in 0..FILES {
        std::fs::write(source.join(format!("f{file}")), content(file)).unwrap();
    }
    let source = source.parent().unwrap().to_path_buf();
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = master.publish("r");
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], "100 MiB");
    node.run();
    node.wait_for("r", &snapshot);
    (dir, source, master, node)
}

/// By curl, as a client would.
fn read_all(node: &Node) {
    for file in 0..FILES {
        let mut curl = clean_command("curl");
        curl.args(["--silent", "--fail"])
            .arg(format!("{}/pub/r/sub/f{file}", node.url()));
        assert!(
            run(&mut curl, LIMIT).unwrap().stdout == content(file),
            "f{file} is wrong"
        );
    }
}

/// Changes a cached file as a medium does: its time stays.
fn rot(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let modified = std::fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    let mut permissions = std::fs::metadata(path).unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false, reason = "a test's own file")]
    permissions.set_readonly(false);
    std::fs::set_permissions(path, permissions).unwrap();
    std::fs::write(path, bytes).unwrap();
    std::fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(modified)
        .unwrap();
}

/// Rot, a cut, an exchange, a foreign file, a lost one. Returns how many objects are damaged, and how many lost.
fn damage(node: &Node) -> (usize, usize) {
    let path = |file: usize| cached(node, &content(file));
    for file in [1, 2, 3] {
        rot(&path(file), |bytes| bytes[500] ^= 4);
    }
    rot(&path(4), |bytes| bytes.truncate(100));
    rot(&path(5), |bytes| *bytes = content(6));
    rot(&path(6), |bytes| *bytes = content(5));
    std::fs::write(path(7).with_file_name("README"), "do not keep notes here").unwrap();
    std::fs::remove_file(path(8)).unwrap();
    (6, 1)
}

fn verify(node: &Node, arguments: &[&str]) -> (i32, String) {
    let mut command = clean_command(
        instantmirror_testkit::process::binary("imnode")
            .unwrap()
            .to_str()
            .unwrap(),
    );
    command.arg("--config").arg(&node.config).arg("verify").args(arguments);
    let finished = run_any(&mut command, LIMIT).unwrap();
    (finished.status.code().unwrap(), finished.transcript())
}

#[test]
fn verify_finds_all_damage_and_repairs_it_while_the_node_serves_and_while_it_does_not() {
    let (_dir, _, mut master, mut node) = world("e2e-verify");
    read_all(&node);
    let (code, said) = verify(&node, &[]);
    assert!(code == 0 && said.contains("0 damaged, 0 missing, 0 foreign"), "{said}");
    for running in [true, false] {
        if !running {
            node.stop(false);
        }
        let (damaged, missing) = damage(&node);
        let (code, said) = verify(&node, &[]);
        assert_eq!(code, 3, "{said}");
        // What is not there when a process begins to look was never there.
        let gone = if running { missing } else { 0 };
        let counts = format!("{damaged} damaged, {gone} missing, 1 foreign files; 0 fetched again");
        assert!(said.contains(&counts), "running {running}: {said}");
        assert!(said.contains("has another hash") && said.contains("README"), "{said}");
        if !running {
            node.run();
        }
        read_all(&node);
        if !running {
            node.stop(false);
        }
        damage(&node);
        let (code, said) = verify(&node, &["--repair"]);
        assert!(
            code == 0 && said.contains(&format!("{} fetched again", damaged + gone)),
            "{said}"
        );
        let (code, said) = verify(&node, &["--repair"]);
        assert!(code == 0 && said.contains("0 damaged, 0 missing, 0 foreign"), "{said}");
    }
    // Parts; and without a master nothing can be repaired.
    node.run();
    read_all(&node);
    node.stop(false);
    master.stop(true);
    damage(&node);
    let found: u64 = (1..=3)
        .map(|part| {
            let (_, said) = verify(&node, &["--subset", &format!("{part}/3"), "--repair"]);
            let words: Vec<_> = said.split_whitespace().collect();
            let at = words.iter().position(|word| *word == "damaged,").unwrap();
            words[at - 1].parse::<u64>().unwrap()
        })
        .sum();
    assert_eq!(found, 6);
    let (code, said) = verify(&node, &["--subset", "4/3"]);
    assert!(code == 2 && said.contains("N from 1 to M"), "{said}");
    master.serve();
    node.run();
    read_all(&node);
}

#[test]
fn a_scrub_finds_and_repairs_rot_unaided() {
    let (_dir, _, _master, mut node) = world("e2e-scrub");
    read_all(&node);
    node.stop(false);
    damage(&node);
    configure(
        &node,
        "max_size",
        "verify = \"scrub\"\nscrub_rate = \"500 MiB/s\"\nmax_size",
    );
    node.run();
    let scrubbed = poll(LIMIT, || {
        let scrub = node.status()["scrub"].clone();
        (scrub["passes"].as_u64()? > 0).then_some(scrub)
    });
    let scrub = scrubbed.unwrap_or_else(|| panic!("{}", node.status_text()));
    // What was foreign or lost when it started was found by the listing.
    assert_eq!(
        (scrub["damaged"].as_u64(), scrub["repaired"].as_u64()),
        (Some(6), Some(6)),
        "{scrub:#}"
    );
    assert!(node.status_text().contains("scrub: "), "{}", node.status_text());
    assert!(node.status()["cache"]["damaged"].as_u64().unwrap() >= 6);
    read_all(&node);
    let (code, said) = verify(&node, &[]);
    assert!(code == 0 && said.contains("0 damaged, 0 missing, 0 foreign"), "{said}");
}

#[test]
fn corrupt_objects_are_never_served_at_first_use_or_always_and_are_fetched_again() {
    for mode in ["first-use", "always"] {
        let (_dir, _, _master, mut node) = world(&format!("e2e-rot-{mode}"));
        configure(&node, "max_size", &format!("verify = {mode:?}\nmax_size"));
        read_all(&node);
        node.stop(false);
        damage(&node);
        node.run();
        read_patiently(&node, mode);
        assert!(node.status()["cache"]["damaged"].as_u64().unwrap() >= 6, "{mode}");
        if mode == "always" {
            // Nothing is kept ready either.
            damage(&node);
            read_patiently(&node, mode);
            assert!(node.status()["cache"]["damaged"].as_u64().unwrap() >= 12, "{mode}");
        }
    }
}

/// The answer to who finds it first may break off or fail; it is never wrong, and the next one is right.
fn read_patiently(node: &Node, mode: &str) {
    for file in 0..FILES {
        let url = format!("{}/pub/r/sub/f{file}", node.url());
        let got = poll(LIMIT, || {
            let mut curl = clean_command("curl");
            let finished = run_any(curl.args(["--silent", "--fail"]).arg(&url), LIMIT).unwrap();
            let right = content(file);
            assert!(right.starts_with(&finished.stdout), "{mode}: wrong bytes of f{file}");
            (finished.status.success() && finished.stdout == right).then_some(())
        });
        assert!(got.is_some(), "{mode}: f{file} does not come back");
    }
}

/// An rsync mirror of the source: some files are missing, one differs, one has its size and time and other content.
fn old_mirror(dir: &TestDir, source: &Path) -> PathBuf {
    let mirror = dir.path().join("old-mirror");
    let mut rsync = clean_command("rsync");
    rsync.arg("-a").arg(format!("{}/", source.display())).arg(&mirror);
    run(&mut rsync, LIMIT).unwrap();
    let sub = mirror.join("sub");
    std::fs::remove_file(sub.join("f1")).unwrap();
    std::fs::remove_file(sub.join("f2")).unwrap();
    std::fs::write(sub.join("f3"), "something else").unwrap();
    rot(&sub.join("f4"), |bytes| bytes[700] ^= 1);
    std::fs::write(sub.join("of no snapshot"), "x").unwrap();
    mirror
}

fn adopt(node: &Node, mirror: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = clean_command(
        instantmirror_testkit::process::binary("imnode")
            .unwrap()
            .to_str()
            .unwrap(),
    );
    command
        .arg("--config")
        .arg(&node.config)
        .args(["adopt", "r"])
        .arg(mirror)
        .args(arguments);
    let finished = run_any(&mut command, LIMIT).unwrap();
    (finished.status.code().unwrap(), finished.transcript())
}

#[test]
fn an_existing_mirror_is_adopted_by_hash_and_only_the_rest_is_fetched() {
    for running in [true, false] {
        let (dir, source, _master, mut node) = world(&format!("e2e-adopt-{running}"));
        let mirror = old_mirror(&dir, &source);
        if !running {
            node.stop(false);
        }
        let (code, said) = adopt(&node, &mirror, &[]);
        assert_eq!(code, 0, "{said}");
        let right = FILES - 4;
        let counts = format!("{right} of them hashed; 0 were here already, 2 differ, 2 are missing");
        assert!(said.contains(&counts), "{said}");
        for named in [
            "missing: sub/f1",
            "missing: sub/f2",
            "differs: sub/f3: it has 14 bytes",
            "differs: sub/f4: it has other content",
        ] {
            assert!(said.contains(named), "{named}: {said}");
        }
        let (_, said) = adopt(&node, &mirror, &[]);
        assert!(
            said.contains(&format!(
                "0 files adopted (0 B), 0 of them hashed; {right} were here already"
            )),
            "{said}"
        );
        // A copy or reflink is nobody else's business.
        std::fs::write(mirror.join("sub/f9"), "changed afterwards").unwrap();
        if !running {
            node.run();
        }
        read_all(&node);
        let fetched: u64 = [1, 2, 3, 4].map(|file| content(file).len() as u64).iter().sum();
        assert_eq!(
            node.status()["fetch"]["bytes"].as_u64(),
            Some(fetched),
            "running {running}"
        );
        let (code, said) = adopt(&node, &mirror, &["--view", "snap/00000000-0000-4000-8000-000000000000"]);
        assert!(code == 1 && said.contains("shows no 'snap/"), "{said}");
        let (code, said) = adopt(&node, &dir.path().join("nowhere"), &[]);
        assert!(code == 1 && said.contains("nowhere"), "{said}");
    }
}

#[test]
fn what_is_adopted_by_size_and_time_is_verified_when_it_is_read() {
    let (dir, source, _master, node) = world("e2e-adopt-trust");
    let mirror = old_mirror(&dir, &source);
    let touched = mirror.join("sub/f5");
    // Another whole second than the source's files have, which were written just now.
    let later = std::time::SystemTime::now() + Duration::from_secs(3600);
    std::fs::File::options()
        .write(true)
        .open(&touched)
        .unwrap()
        .set_modified(later)
        .unwrap();
    let (code, said) = adopt(&node, &mirror, &["--trust", "size-mtime", "--method", "hardlink"]);
    assert_eq!(code, 0, "{said}");
    // The one with another time was hashed; the forged one looked right.
    assert!(said.contains(&format!("{} files adopted", FILES - 3)), "{said}");
    assert!(
        said.contains("1 of them hashed") && said.contains("1 differ, 2 are missing"),
        "{said}"
    );
    let same_file = cached(&node, &content(6)).metadata().unwrap().ino();
    assert_eq!(same_file, mirror.join("sub/f6").metadata().unwrap().ino());
    for file in 0..FILES {
        let got = poll(LIMIT, || {
            let mut curl = clean_command("curl");
            let url = format!("{}/pub/r/sub/f{file}", node.url());
            let finished = run_any(curl.args(["--silent", "--fail"]).arg(&url), LIMIT).unwrap();
            assert!(content(file).starts_with(&finished.stdout), "wrong bytes of f{file}");
            finished.status.success().then_some(())
        });
        assert!(got.is_some(), "f{file}");
    }
    assert_eq!(node.status()["cache"]["damaged"], 1);
}

#[test]
fn adopting_ends_when_the_cache_is_full_and_gives_nothing_up() {
    let (dir, source, _master, mut node) = world("e2e-adopt-full");
    let mirror = old_mirror(&dir, &source);
    node.stop(false);
    configure(&node, "100 MiB", "2 MiB");
    node.run();
    node.get("/pub/r/sub/f23");
    let (code, said) = adopt(&node, &mirror, &[]);
    assert!(code == 3 && said.contains("the cache is full"), "{said}");
    assert!(cached(&node, &content(23)).exists());
    let cache = node.status()["cache"].clone();
    let sum: u64 = ["used_bytes", "reserved_bytes", "side_bytes"]
        .map(|field| cache[field].as_u64().unwrap())
        .iter()
        .sum();
    assert!(sum <= 2 << 20 && cache["evicted"] == 0, "{cache:#}");
}
