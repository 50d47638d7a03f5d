//! `cargo xtask setup`: the Debian packages that tests and benches use, installed on a machine that lacks them.
//!
//! Never touches anything when all of them are present, so it is cheap to run before every test run and needs no
//! network then. On systems without dpkg it only says what it would have installed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::steps::{is_installed, run as run_command};

/// Package, and what the tests need of it.
const PACKAGES: &[(&str, &str)] = &[
    ("apache2-bin", "shared cache in front of a node"),
    ("apt-cacher-ng", "cache in front of a mirror, for apt alone"),
    ("apt-utils", "apt-ftparchive writes the indices of the Debian archive"),
    ("aria2", "parallel download client"),
    ("axel", "download client with many connections a file"),
    ("ca-certificates", "apt and cargo over TLS"),
    ("cadaver", "client of WebDAV, which there is none of"),
    ("casync", "client of a store of chunks"),
    ("chromium", "browser that reads directory listings"),
    ("createrepo-c", "metadata of the yum repository"),
    ("ctorrent", "torrent client that keeps pads as files"),
    ("curl", "HTTP client"),
    ("debmirror", "mirrors a suite by HTTP"),
    ("dnf", "client of the yum repository"),
    ("dnf-plugins-core", "dnf download and dnf repoquery"),
    ("dpkg", "dpkg-deb takes packages apart and builds newer ones"),
    ("e2fsprogs", "mkfs.ext4 makes file systems that are mounted again"),
    ("fakeroot", "file owners in built packages"),
    ("g++", "libFuzzer, which the fuzz targets are linked with"),
    ("gcc", "C parts of zstd and blake3, and the linker"),
    ("git", "list of tracked files for tidy"),
    ("gnupg", "signatures that clients check"),
    ("haproxy", "proxy that tells whom it asks for, by the PROXY protocol"),
    (
        "httpdirfs",
        "mounts a listing, and brings fusermount, by which users mount",
    ),
    ("httrack", "recursive download client"),
    ("iproute2", "network namespaces and socket states"),
    ("lftp", "client that reads directory listings"),
    ("libc6-dev", "C parts of zstd and blake3"),
    ("libnbd-bin", "nbdcopy reads what nbdkit offers"),
    ("lynx", "browser on a terminal"),
    ("media-types", "the types of files that ours are compared with"),
    ("mktorrent", "peer of benches/torrent.py"),
    ("mount", "file systems of the tests are mounted, full and mounted over"),
    ("nbdkit", "reads images by ranges"),
    ("nftables", "a firewall in a network of a test's own"),
    ("nghttp2-client", "h2load, a client of HTTP/2 with windows of any size"),
    (
        "nginx",
        "oracle of the HTTP server's tests, gate between nodes and masters, peer of benches/http",
    ),
    ("openssl", "certificates of the TLS tests"),
    (
        "opentracker",
        "BitTorrent tracker that our announces are tested with, peer of benches/tracker",
    ),
    ("ostree", "client of a repository of objects in files"),
    (
        "pacman-package-manager",
        "client that looks for optional signatures of databases",
    ),
    ("procps", "process states"),
    (
        "python3",
        "the plain HTTP server that the test support checks itself with",
    ),
    ("python3-aiohttp", "client of many requests at once"),
    (
        "python3-libtorrent",
        "torrent client of torrents and tracker, oracle of info-hashes",
    ),
    ("python3-pip", "client of package indices and listings"),
    ("qbittorrent-nox", "torrent client"),
    ("rclone", "client that reads directory listings"),
    ("rpm", "rpmbuild makes real RPMs"),
    ("rsync", "peer for comparisons of trees and speed"),
    ("rtorrent", "torrent client that makes files of pads"),
    (
        "skopeo",
        "client of a static OCI registry, whose types the operator sets",
    ),
    (
        "squid",
        "proxy between nodes and masters, caching proxy that benches/http compares with",
    ),
    ("strace", "faults at chosen system calls"),
    ("transmission-cli", "torrent client"),
    ("util-linux", "setpriv runs programs as another user"),
    (
        "varnish",
        "caching proxy in front of a node, and that benches/http compares with",
    ),
    ("w3m", "browser on a terminal"),
    ("wget", "recursive download client"),
    ("wget2", "recursive download client"),
    ("wrk", "load of benches/http"),
    ("xz-utils", "Packages.xz"),
    ("zchunk", "client that fetches only what changed, with many ranges"),
    ("zsync", "client that fetches only what changed, with many ranges"),
];

/// How packages are installed: nothing more than what is named, and nothing of the machine is removed for it.
pub(crate) const INSTALL: &[&str] = &["install", "--yes", "--no-remove", "--no-install-recommends"];

/// Packages that start a service when they are installed; tests and benches only want the programs.
const SERVICES: &[&str] = &["apt-cacher-ng", "haproxy", "nginx", "opentracker", "squid", "varnish"];

/// Installs what is missing.
pub(crate) fn run() -> Result<()> {
    if !is_installed("dpkg-query", &["--version"]) {
        println!("no dpkg on this system; the tests need the counterparts of these Debian packages:");
        for (package, purpose) in PACKAGES {
            println!("  {package:<18} {purpose}");
        }
        return Ok(());
    }
    let missing = missing_packages()?;
    if missing.is_empty() {
        println!("all {} packages that the tests need are installed", PACKAGES.len());
        return Ok(());
    }
    println!("missing: {}", missing.join(" "));
    install(&missing)?;
    let left = missing_packages()?;
    if !left.is_empty() {
        bail!(
            "apt-get reported success, but these packages are still missing: {}",
            left.join(" ")
        );
    }
    let started = services_in(&missing);
    if !started.is_empty() && Path::new("/run/systemd/system").is_dir() {
        println!("the system may have started services that nothing here needs: systemctl disable --now {started}");
    }
    Ok(())
}

/// The names of all packages that the tests need.
pub(crate) fn package_names() -> impl Iterator<Item = &'static str> {
    PACKAGES.iter().map(|(package, _)| *package)
}

fn services_in(packages: &[&str]) -> String {
    let services: Vec<&str> = SERVICES
        .iter()
        .copied()
        .filter(|name| packages.contains(name))
        .collect();
    services.join(" ")
}

/// The packages of [`PACKAGES`] that dpkg does not know as installed.
fn missing_packages() -> Result<Vec<&'static str>> {
    let mut command = Command::new("dpkg-query");
    command.args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"]);
    command.args(PACKAGES.iter().map(|(package, _)| package));
    // dpkg-query ends with 1 when it knows nothing of a package; what it printed for the others still counts.
    let done = command
        .stdin(Stdio::null())
        .output()
        .context("cannot start dpkg-query")?;
    Ok(missing_in(&String::from_utf8_lossy(&done.stdout)))
}

fn missing_in(listing: &str) -> Vec<&'static str> {
    let installed: BTreeSet<&str> = listing
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .collect();
    PACKAGES
        .iter()
        .map(|(package, _)| *package)
        .filter(|package| !installed.contains(package))
        .collect()
}

/// One apt-get run for all packages; when that fails, the answer says which of them is to blame.
fn install(missing: &[&str]) -> Result<()> {
    run_command(apt_get()?.arg("update")).context("cannot refresh the package lists")?;
    let mut all = apt_get()?;
    all.args(INSTALL).args(missing);
    if run_command(&mut all).is_ok() {
        return Ok(());
    }
    println!("installing them together failed; trying one by one to find the culprit");
    let mut failed = Vec::new();
    for package in missing {
        if run_command(apt_get()?.args(INSTALL).arg(package)).is_err() {
            failed.push(*package);
        }
    }
    if !failed.is_empty() {
        bail!(
            "apt-get could not install {}; install by hand and run again",
            failed.join(", ")
        );
    }
    Ok(())
}

/// apt-get as root (through sudo where we are not), never asking a question, waiting for a lock held by another run.
fn apt_get() -> Result<Command> {
    let mut command = if is_root()? {
        Command::new("apt-get")
    } else if is_installed("sudo", &["--version"]) {
        let mut sudo = Command::new("sudo");
        sudo.args(["--non-interactive", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        sudo
    } else {
        bail!("packages are missing, we are not root and there is no sudo; run `cargo xtask setup` as root");
    };
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .stdin(Stdio::null());
    Ok(command)
}

fn is_root() -> Result<bool> {
    let done = Command::new("id").arg("-u").output().context("cannot start id")?;
    Ok(done.stdout.trim_ascii() == b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_not_missing() {
        let listing: String = PACKAGES
            .iter()
            .map(|(package, _)| format!("installed {package}\n"))
            .collect();
        assert!(missing_in(&listing).is_empty());
    }

    #[test]
    fn removed_and_unknown_packages_are_missing() {
        let listing: String = PACKAGES
            .iter()
            .skip(1)
            .map(|(package, _)| format!("installed {package}\n"))
            .collect::<String>()
            + "config-files apache2-bin\n";
        assert_eq!(missing_in(&listing), ["apache2-bin"]);
    }

    #[test]
    fn services_are_named_only_where_they_were_installed() {
        assert_eq!(services_in(&["curl", "nginx", "varnish"]), "nginx varnish");
        assert_eq!(services_in(&["curl"]), "");
        let is_listed = |name: &&str| PACKAGES.iter().any(|(package, _)| package == name);
        assert!(SERVICES.iter().all(is_listed));
    }

    #[test]
    fn the_list_is_sorted_and_every_entry_says_why() {
        assert!(PACKAGES.is_sorted_by_key(|(package, _)| package));
        assert!(PACKAGES.iter().all(|(_, purpose)| !purpose.is_empty()));
    }
}
