//! Programs that are tried on one mirror in turn: downloaders that follow its listings, browsers on a terminal, and stores of
//! content in files that have clients of their own.

use std::path::{Path, PathBuf};

use instantmirror_testkit::command::{clean_command, run};
use instantmirror_testkit::debian::Archive;
use instantmirror_testkit::process::TestDir;
use instantmirror_testkit::tree::noise;

use crate::world::{LIMIT, Master, Node};

struct World {
    dir: TestDir,
    source: PathBuf,
    /// What lies behind the mount of the mirror.
    url: String,
    node: Node,
    _master: Master,
}

/// Publishes what `fill` puts into a directory, and mirrors it.
fn world(name: &str, fill: impl FnOnce(&Path, &Path)) -> World {
    let dir = TestDir::new(name).unwrap();
    let source = dir.folder("source").unwrap();
    fill(&source, &dir.folder("work").unwrap());
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = master.publish("r");
    master.serve();
    let node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &snapshot);
    World {
        url: format!("{}/pub/r", node.url()),
        dir,
        source,
        node,
        _master: master,
    }
}

impl World {
    /// Runs a program in the test's folder.
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = clean_command(program);
        command.current_dir(self.dir.path()).env("HOME", self.dir.path());
        run(command.args(arguments), LIMIT).unwrap().text()
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
    world.run("httrack", &["-q", "-s0", "-O", "httrack", &all]);
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
