//! Files whose absence means something are not found by grace beside newer ones: with the clients that look for them.

use std::path::{Path, PathBuf};
use std::process::Command;

use instantmirror_testkit::command::{Finished, clean_command, run, run_any};
use instantmirror_testkit::debian::{AptClient, Archive};
use instantmirror_testkit::http;
use instantmirror_testkit::process::TestDir;

use crate::world::{LIMIT, Master, Node};

/// A key to sign with, in a folder of its own.
struct Signer(PathBuf);

impl Signer {
    fn new(dir: &TestDir) -> Self {
        let signer = Self(dir.folder("gpg").unwrap());
        run(clean_command("chmod").arg("700").arg(&signer.0), LIMIT).unwrap();
        signer.gpg(&[
            "--passphrase",
            "",
            "--quick-generate-key",
            "test <test@example.org>",
            "ed25519",
            "sign",
            "never",
        ]);
        signer
    }

    fn gpg(&self, arguments: &[&str]) {
        let mut command = clean_command("gpg");
        command
            .arg("--homedir")
            .arg(&self.0)
            .args(["--batch", "--yes", "--quiet"]);
        run(command.args(arguments), LIMIT).unwrap();
    }

    fn sign(&self, file: &Path) {
        self.gpg(&["--detach-sign", file.to_str().unwrap()]);
    }

    fn clear_sign(&self, from: &Path, to: &Path) {
        self.gpg(&["--clearsign", "--output", to.to_str().unwrap(), from.to_str().unwrap()]);
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        // The agent that gpg has started.
        let _ = clean_command("gpgconf")
            .arg("--homedir")
            .arg(&self.0)
            .args(["--kill", "all"])
            .status();
    }
}

/// A pacman that knows nothing yet.
struct Pacman {
    root: PathBuf,
}

impl Pacman {
    fn new(dir: &TestDir, name: &str, signer: &Signer, server: &str) -> Self {
        let root = dir.folder(name).unwrap();
        for folder in ["root", "db", "cache", "hooks"] {
            std::fs::create_dir(root.join(folder)).unwrap();
        }
        let at = |name: &str| root.join(name).display().to_string();
        let text = format!(
            "[options]\nRootDir = {}\nDBPath = {}\nCacheDir = {}\nGPGDir = {}\nLogFile = {}\nHookDir = {}\n\
             Architecture = auto\nSigLevel = Optional TrustAll\n[test]\nServer = {server}\n",
            at("root"),
            at("db"),
            at("cache"),
            signer.0.display(),
            at("log"),
            at("hooks"),
        );
        std::fs::write(root.join("pacman.conf"), text).unwrap();
        Self { root }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        // It wants to be root, and writes to folders of its own alone.
        let mut command = clean_command("fakeroot");
        command
            .args(["pacman", "--config"])
            .arg(self.root.join("pacman.conf"))
            .args(arguments);
        command
    }

    fn synchronise(&self) -> Finished {
        run_any(&mut self.command(&["-Sy", "--noconfirm"]), LIMIT).unwrap()
    }

    fn list(&self) -> String {
        run(&mut self.command(&["-Sl"]), LIMIT).unwrap().text()
    }
}

/// A database of one package.
fn write_database(dir: &TestDir, source: &Path, version: &str) {
    let work = dir.folder(&format!("db-{version}")).unwrap();
    let package = work.join(format!("tool-{version}"));
    std::fs::create_dir(&package).unwrap();
    let fields = [
        ("NAME", "tool"),
        ("VERSION", version),
        ("FILENAME", "tool.pkg.tar.zst"),
        ("ARCH", "any"),
        ("CSIZE", "1"),
        ("ISIZE", "1"),
    ];
    let text: String = fields
        .iter()
        .map(|(name, value)| format!("%{name}%\n{value}\n\n"))
        .collect();
    std::fs::write(package.join("desc"), text).unwrap();
    let mut tar = clean_command("tar");
    tar.arg("-czf")
        .arg(source.join("test.db"))
        .arg("-C")
        .arg(&work)
        .arg(format!("tool-{version}"));
    run(&mut tar, LIMIT).unwrap();
}

fn status(server: &str, path: &str) -> u16 {
    http::get(&format!("{server}{path}")).unwrap().status
}

#[test]
fn optional_files_that_are_gone_do_not_spoil_newer_ones() {
    let dir = TestDir::new("grace").unwrap();
    let signer = Signer::new(&dir);
    let (arch, debian) = (dir.folder("arch").unwrap(), dir.folder("debian").unwrap());
    let archive = Archive::build_of(&debian, &["hostname"]).unwrap();
    let release = debian.join("dists/stable/Release");
    write_database(&dir, &arch, "1-1");
    signer.sign(&arch.join("test.db"));
    signer.clear_sign(&release, &debian.join("dists/stable/InRelease"));
    // And what other clients look for.
    let pairs = [
        ("repomd.xml", "repomd.xml.asc"),
        ("repomd.xml", "repomd.xml.key"),
        ("PACKAGES.gz", "PACKAGES.rds"),
        ("repodata.json", "repodata.json.zst"),
        ("docs/page.html", "docs/index.html"),
        ("tool.tar", "tool.tar.sign"),
    ];
    std::fs::create_dir(arch.join("docs")).unwrap();
    for name in pairs.iter().flat_map(|(of, name)| [of, name]) {
        std::fs::write(arch.join(name), "first").unwrap();
    }
    for name in ["old-1.tar.xz", "old-1.tar.xz.sig"] {
        std::fs::write(arch.join(name), "first").unwrap();
    }

    let mut master = Master::new(&dir, &[("arch", &arch), ("debian", &debian)]);
    master.publish("arch");
    master.publish("debian");
    master.serve();
    let mut node = Node::start(&dir, &master, &["arch", "debian"]);
    let first = |node: &Node| {
        node.wait_for("arch", &master.live("arch")[0]);
        node.wait_for("debian", &master.live("debian")[0]);
    };
    first(&node);
    let (arch_url, debian_url) = (format!("{}/pub/arch", node.url()), format!("{}/pub/debian", node.url()));
    let pacman = Pacman::new(&dir, "pacman-1", &signer, &arch_url);
    let done = pacman.synchronise();
    assert!(
        done.status.success() && pacman.list().contains("tool 1-1"),
        "{}",
        done.transcript()
    );
    let apt = AptClient::new(&dir.folder("apt").unwrap(), &debian_url).unwrap();
    apt.update().unwrap();

    // The optional files go, what they stood beside is new; a package goes with its signature.
    write_database(&dir, &arch, "2-1");
    let gone = pairs.iter().map(|(_, name)| *name);
    for name in gone.chain(["test.db.sig", "old-1.tar.xz", "old-1.tar.xz.sig"]) {
        std::fs::remove_file(arch.join(name)).unwrap();
    }
    for (of, _) in pairs {
        std::fs::write(arch.join(of), "second").unwrap();
    }
    let newer = archive.upgrade("hostname").unwrap();
    std::fs::remove_file(debian.join("dists/stable/InRelease")).unwrap();
    for repository in ["arch", "debian"] {
        let snapshot = master.publish(repository);
        node.wait_for(repository, &snapshot);
    }
    for server in [master.url(), node.url()] {
        for name in pairs.iter().map(|(_, name)| *name).chain(["test.db.sig"]) {
            assert_eq!(status(&server, &format!("/arch/snap/current/{name}")), 404, "{name}");
        }
        // Who has the old metadata finds what it names, signature and all.
        for name in ["old-1.tar.xz", "old-1.tar.xz.sig"] {
            assert_eq!(status(&server, &format!("/arch/snap/current/{name}")), 200, "{name}");
        }
    }
    let pacman = Pacman::new(&dir, "pacman-2", &signer, &arch_url);
    let done = pacman.synchronise();
    assert!(
        done.status.success() && pacman.list().contains("tool 2-1"),
        "{}",
        done.transcript()
    );
    apt.update().unwrap();
    assert_eq!(apt.candidate("hostname").unwrap(), Some(newer));

    // Without the rule it goes wrong, so this test can fail.
    node.stop(false);
    let text = std::fs::read_to_string(&node.config).unwrap();
    std::fs::write(&node.config, format!("{text}[snapshots]\ngrace_optional = true\n")).unwrap();
    node.run();
    let pacman = Pacman::new(&dir, "pacman-3", &signer, &format!("{}/pub/arch", node.url()));
    let done = pacman.synchronise();
    assert!(
        !done.status.success() && done.transcript().contains("signature"),
        "{}",
        done.transcript()
    );
}
