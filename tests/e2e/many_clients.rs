//! Programs that are tried on one mirror in turn: downloaders that follow its listings, browsers on a terminal, and stores of
//! content in files that have clients of their own, and programs that read images and listings by ranges.

use std::path::{Path, PathBuf};
use std::process::Command;

use instantmirror_testkit::command::{clean_command, run, run_any};
use instantmirror_testkit::debian::Archive;
use instantmirror_testkit::process::{Daemon, TestDir, poll};
use instantmirror_testkit::tree::noise;

use crate::world::{LIMIT, Master, Node};

pub(crate) struct World {
    pub(crate) dir: TestDir,
    pub(crate) source: PathBuf,
    /// The mount of the mirror, with `index = true`.
    pub(crate) url: String,
    pub(crate) node: Node,
    pub(crate) master: Master,
}

/// Publishes what `fill` puts into a directory, and mirrors it.
pub(crate) fn world(name: &str, fill: impl FnOnce(&Path, &Path)) -> World {
    let dir = TestDir::new(name).unwrap();
    let source = dir.folder("source").unwrap();
    fill(&source, &dir.folder("work").unwrap());
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = master.publish("r");
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], "10 GiB");
    let text = std::fs::read_to_string(&node.config).unwrap();
    let indexed = text.replace("view = \"current\" }", "view = \"current\", index = true }");
    assert_ne!(indexed, text);
    std::fs::write(&node.config, indexed).unwrap();
    node.run();
    node.wait_for("r", &snapshot);
    World {
        url: format!("{}/pub/r", node.url()),
        dir,
        source,
        node,
        master,
    }
}

impl World {
    /// Runs a program in the test's folder.
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        run(self.command(program).args(arguments), LIMIT).unwrap().text()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = clean_command(program);
        command.current_dir(self.dir.path()).env("HOME", self.dir.path());
        command
    }

    fn at(&self, path: &str) -> String {
        format!("{}/{path}", self.url)
    }

    /// Asserts that a file below the test's folder is one of the source.
    fn assert_same(&self, found: &str, path: &str) {
        let found = self.dir.path().join(found);
        let bytes = std::fs::read(&found).unwrap_or_else(|error| panic!("{}: {error}", found.display()));
        assert!(
            bytes == std::fs::read(self.source.join(path)).unwrap(),
            "{}",
            found.display()
        );
    }
}

#[test]
fn downloaders_and_browsers_follow_the_listings() {
    let files = ["dists/sid/notes", "pool/c d.deb", "@scope/name", "large.iso"];
    let world = world("e2e-downloaders", |source, _| {
        for (file, bytes) in files.into_iter().zip([700, 3000, 500, 3_000_000]) {
            let file = source.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, noise(bytes)).unwrap();
        }
        std::os::unix::fs::symlink("sid", source.join("dists/stable")).unwrap();
    });
    let (all, host) = (world.at(""), world.node.url().replace("http://", ""));
    world.run("wget2", &["-q", "-r", "-np", "-nH", "-P", "wget2", &all]);
    // It takes 100 kB/s at most unless it is told otherwise.
    let fast = ["--disable-security-limits", "--max-rate=0"];
    world.run("httrack", &[&fast[..], &["-q", "-s0", "-O", "httrack", &all]].concat());
    for path in files {
        world.assert_same(&format!("wget2/pub/r/{path}"), path);
        world.assert_same(&format!("httrack/{}/pub/r/{path}", host.replace(':', "_")), path);
    }
    // A symlink to a directory is one to walk into.
    world.assert_same("wget2/pub/r/dists/stable/notes", "dists/sid/notes");
    world.run("axel", &["-q", "-n", "8", "-o", "axel.iso", &world.at("large.iso")]);
    world.assert_same("axel.iso", "large.iso");
    for browser in ["lynx", "w3m"] {
        let page = world.run(browser, &["-dump", &all]);
        assert!(
            page.contains("large.iso") && page.contains("dists/"),
            "{browser}: {page}"
        );
    }
}

#[test]
fn stores_of_content_in_files_are_read_by_their_clients() {
    let world = world("e2e-stores", |source, work| {
        let run = |program: &str, arguments: &[&str]| {
            let mut command = clean_command(program);
            command.current_dir(work).env("HOME", work);
            run(command.args(arguments), LIMIT).unwrap();
        };
        let place = |name: &str| source.join(name).to_str().unwrap().to_owned();
        std::fs::create_dir(work.join("tree")).unwrap();
        std::fs::write(work.join("tree/content"), noise(300_000)).unwrap();
        std::fs::write(source.join("content"), noise(300_000)).unwrap();

        let (git, ostree, casync) = (place("project.git"), place("ostree"), place("casync"));
        run("git", &["init", "-q", "tree"]);
        run("git", &["-C", "tree", "add", "content"]);
        let author = ["-c", "user.name=a", "-c", "user.email=a@b.example"];
        run(
            "git",
            &[&["-C", "tree"][..], &author, &["commit", "-q", "-m", "one"]].concat(),
        );
        run("git", &["clone", "-q", "--bare", "tree", &git]);
        run("git", &["-C", &git, "update-server-info"]);
        std::fs::remove_dir_all(work.join("tree/.git")).unwrap();

        let repository = format!("--repo={ostree}");
        run("ostree", &[&repository, "init", "--mode=archive"]);
        run(
            "ostree",
            &[&repository, "commit", "-b", "main", "--subject=one", "tree"],
        );
        run("ostree", &[&repository, "summary", "--update"]);

        std::fs::create_dir(&casync).unwrap();
        let (store, index) = (
            format!("--store={casync}/default.castr"),
            format!("{casync}/tree.caidx"),
        );
        run("casync", &["make", &store, &index, "tree"]);
    });
    world.run("git", &["clone", "-q", &world.at("project.git"), "git"]);
    world.assert_same("git/content", "content");

    world.run("ostree", &["--repo=pulled", "init", "--mode=bare-user"]);
    let (repository, remote) = ("--repo=pulled", world.at("ostree"));
    world.run(
        "ostree",
        &[repository, "remote", "add", "--no-gpg-verify", "mirror", &remote],
    );
    world.run("ostree", &[repository, "pull", "mirror", "main"]);
    world.run("ostree", &[repository, "checkout", "-U", "mirror:main", "ostree"]);
    world.assert_same("ostree/content", "content");

    let store = format!("--store={}", world.at("casync/default.castr"));
    world.run("casync", &["extract", &store, &world.at("casync/tree.caidx"), "casync"]);
    world.assert_same("casync/content", "content");
}

#[test]
fn debmirror_mirrors_a_suite() {
    let mut package = String::new();
    let world = world("e2e-debmirror", |source, _| {
        let archive = Archive::build_of(source, &["hello"]).unwrap();
        let file = archive.package_file("hello").unwrap();
        package = file.strip_prefix(source).unwrap().to_str().unwrap().to_owned();
        // debmirror wants the packages of all architectures too, if there are none.
        let all = source.join("dists/stable/main/binary-all");
        std::fs::create_dir_all(&all).unwrap();
        std::fs::write(all.join("Packages"), "").unwrap();
        run(clean_command("gzip").arg(all.join("Packages")), LIMIT).unwrap();
    });
    let host = world.node.url().replace("http://", "");
    let architecture = run(clean_command("dpkg").arg("--print-architecture"), LIMIT)
        .unwrap()
        .text();
    let arch = format!("--arch={}", architecture.trim());
    let host = format!("--host={host}");
    let said = world.run(
        "debmirror",
        &[
            &host,
            "--root=pub/r",
            "--method=http",
            "--dist=stable",
            "--section=main",
            &arch,
            "--nosource",
            "--rsync-extra=none",
            "--no-check-gpg",
            "--ignore-missing-release",
            "--progress",
            "mirror",
        ],
    );
    assert!(world.dir.path().join("mirror").exists(), "{said}");
    world.assert_same(&format!("mirror/{package}"), &package);
}

/// Makes a wheel, the package format of pip (PEP 427): a zip archive with metadata.
const MAKE_WHEEL: &str = r#"
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    info = "demo-1.0.dist-info/"
    wheel.writestr("demo.py", "answer = 42\n")
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "demo.py,,\n")
"#;

#[test]
fn pip_installs_from_an_index_and_from_a_listing() {
    const WHEEL: &str = "demo-1.0-py3-none-any.whl";
    let world = world("e2e-pip", |source, _| {
        let (packages, index) = (source.join("packages"), source.join("simple/demo"));
        std::fs::create_dir_all(&packages).unwrap();
        std::fs::create_dir_all(&index).unwrap();
        let wheel = packages.join(WHEEL);
        run(
            clean_command("/usr/bin/python3").args(["-c", MAKE_WHEEL]).arg(&wheel),
            LIMIT,
        )
        .unwrap();
        let sum = run(clean_command("sha256sum").arg(&wheel), LIMIT).unwrap().text();
        let sum = sum.split_whitespace().next().unwrap();
        let page = format!(
            "<!DOCTYPE html><html><body><a href=\"../../packages/{WHEEL}#sha256={sum}\">{WHEEL}</a></body></html>"
        );
        std::fs::write(index.join("index.html"), page).unwrap();
    });
    let pip = [
        "-m",
        "pip",
        "--isolated",
        "--disable-pip-version-check",
        "--no-cache-dir",
    ];
    // The index of PEP 503, whose page names the checksum; then the listing that a directory of packages has by itself.
    let (simple, packages) = (world.at("simple/"), world.at("packages/"));
    for (to, from) in [
        ("indexed", &["--index-url", simple.as_str()][..]),
        ("listed", &["--no-index", "--find-links", packages.as_str()]),
    ] {
        let install = ["install", "--no-deps", "--no-compile", "--target", to, "demo==1.0"];
        world.run("/usr/bin/python3", &[&pip[..], &install, from].concat());
        let installed = std::fs::read_to_string(world.dir.path().join(to).join("demo.py")).unwrap();
        assert_eq!(installed, "answer = 42\n", "{to}");
    }
}

/// Asks for so many ranges of one file at once, as many connections as it takes, and compares each with the file.
const ASK_FOR_RANGES: &str = r#"
import asyncio, sys, aiohttp
url, file = sys.argv[1:]
content = open(file, "rb").read()
async def ask(session, number):
    first = number * 7919
    last = first + 9999
    async with session.get(url, headers={"Range": f"bytes={first}-{last}"}) as answer:
        assert answer.status == 206, answer.status
        assert await answer.read() == content[first:last + 1], number
async def ask_all():
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(ask(session, number) for number in range(100)))
asyncio.run(ask_all())
print("all are right")
"#;

#[test]
fn images_are_read_by_ranges_and_webdav_is_told_that_there_is_none() {
    let world = world("e2e-ranges", |source, _| {
        std::fs::write(source.join("disk.img"), noise(2 << 20)).unwrap();
        std::fs::create_dir_all(source.join("dists/sid")).unwrap();
        std::fs::write(source.join("dists/sid/notes"), "news").unwrap();
        std::os::unix::fs::symlink("sid", source.join("dists/stable")).unwrap();
    });
    let image = world.at("disk.img");
    let url = format!("url={image}");
    let copy = "nbdcopy \"$uri\" copied.img";
    world.run("nbdkit", &["-U", "-", "curl", &url, "--run", copy]);
    world.assert_same("copied.img", "disk.img");

    let source = world.source.join("disk.img");
    let said = world.run(
        "/usr/bin/python3",
        &["-c", ASK_FOR_RANGES, &image, source.to_str().unwrap()],
    );
    assert_eq!(said, "all are right\n");

    let mounted = world.dir.folder("mounted").unwrap();
    let mut command = world.command("httpdirfs");
    command.args(["-f", &world.at("")]).arg(&mounted);
    let httpdirfs = Daemon::start("httpdirfs", &mut command, &world.dir.path().join("httpdirfs.log")).unwrap();
    let notes = poll(LIMIT, || {
        std::fs::read_to_string(mounted.join("dists/stable/notes")).ok()
    });
    assert_eq!(notes.as_deref(), Some("news"), "{}", httpdirfs.log());
    world.assert_same("mounted/disk.img", "disk.img");
    run(clean_command("umount").arg(&mounted), LIMIT).unwrap();

    let script = world.dir.path().join("cadaver.rc");
    std::fs::write(&script, "ls\nquit\n").unwrap();
    let mut command = world.command("cadaver");
    command.arg("--rcfile").arg(&script).arg(world.at(""));
    let said = run_any(&mut command, LIMIT).unwrap().transcript();
    assert!(said.contains("405"), "{said}");
}
