//! A Debian archive built from real packages, and apt to read it.
//!
//! The packages come from the machine's own apt sources once and stay in `target/testkit-cache`; tests that run at the
//! same time share that cache under a lock. Never touches the machine's apt lists, cache or dpkg database: the download
//! and the client each have folders of their own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use crate::command::{clean_command, run};
use crate::process::{TestDir, cache_folder};

/// Small real packages, without an epoch in their version, in every Debian release for years.
pub const PACKAGES: &[&str] = &["hello", "sl", "tree", "cowsay", "bc"];

/// How long a download from the machine's own sources may take.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(300);

/// How long a local tool or a client of a local server may take.
const LOCAL_LIMIT: Duration = Duration::from_secs(120);

/// A Debian archive in a folder: `pool/` and `dists/stable/`.
#[derive(Debug)]
pub struct Archive {
    root: PathBuf,
    architecture: String,
}

impl Archive {
    /// Builds an archive of [`PACKAGES`] in `root`.
    pub fn build(root: &Path) -> Result<Self> {
        Self::build_of(root, PACKAGES)
    }

    /// Builds an archive of these packages of the machine's release in `root`.
    pub fn build_of(root: &Path, packages: &[&str]) -> Result<Self> {
        let archive = Self {
            root: root.to_path_buf(),
            architecture: architecture()?,
        };
        for package in packages {
            let downloaded = downloaded(package).with_context(|| format!("cannot get the real package {package}"))?;
            archive.add(&downloaded)?;
        }
        archive.write_indices()?;
        Ok(archive)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The architecture of its indices, for example `amd64`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The pool file of a package; an error unless there is exactly one.
    pub fn package_file(&self, package: &str) -> Result<PathBuf> {
        let folder = self.pool_folder(package);
        let listing = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        let mut files = listing.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        match (files.pop(), files.is_empty()) {
            (Some(file), true) => Ok(file),
            _ => bail!("{} does not hold exactly one file", folder.display()),
        }
    }

    /// The version of a package in the pool.
    pub fn version(&self, package: &str) -> Result<String> {
        field(&self.package_file(package)?, "Version")
    }

    /// Puts a newer build of a package in the place of the present one, as a release does, and writes the indices
    /// anew. Returns the new version.
    pub fn upgrade(&self, package: &str) -> Result<String> {
        let old = self.package_file(package)?;
        let version = format!("{}+im1", field(&old, "Version")?);
        let work = TestDir::new("deb")?;
        let rebuilt = rebuild(&old, &version, work.path())?;
        fs::remove_file(&old)?;
        self.add(&rebuilt)?;
        self.write_indices()?;
        Ok(version)
    }

    /// Copies a package file into the pool; the indices do not know it before [`Archive::write_indices`].
    pub fn add(&self, file: &Path) -> Result<()> {
        let (package, version) = (field(file, "Package")?, field(file, "Version")?);
        // File names leave out the epoch.
        let version = version.split_once(':').map_or(version.as_str(), |(_, rest)| rest);
        let folder = self.pool_folder(&package);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let name = format!("{package}_{version}_{}.deb", field(file, "Architecture")?);
        fs::copy(file, folder.join(&name)).with_context(|| format!("cannot put {name} into the pool"))?;
        Ok(())
    }

    /// Writes `Packages`, `Packages.gz`, `Packages.xz` and `Release` for what the pool holds now.
    pub fn write_indices(&self) -> Result<()> {
        let binary = format!("dists/stable/main/binary-{}", self.architecture);
        let folder = self.root.join(&binary);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let packages = run(self.ftparchive().args(["packages", "pool"]), LOCAL_LIMIT)?.stdout;
        fs::write(folder.join("Packages"), packages)?;
        run(
            clean_command("gzip").args(["-9nkf", "Packages"]).current_dir(&folder),
            LOCAL_LIMIT,
        )?;
        run(
            clean_command("xz").args(["-kf", "Packages"]).current_dir(&folder),
            LOCAL_LIMIT,
        )?;
        let release = self.root.join("dists/stable/Release");
        let modified = time_of_release(&release)?;
        // An old one would be listed in the new one.
        if release.exists() {
            fs::remove_file(&release)?;
        }
        let mut command = self.ftparchive();
        let architectures = format!("Architectures={}", self.architecture);
        let facts = [
            "Origin=testkit",
            "Label=testkit",
            "Suite=stable",
            "Codename=stable",
            "Components=main",
        ];
        for fact in facts.into_iter().chain([architectures.as_str()]) {
            command.arg("-o").arg(format!("APT::FTPArchive::Release::{fact}"));
        }
        let text = run(command.args(["release", "dists/stable"]), LOCAL_LIMIT)?.stdout;
        fs::write(&release, text)?;
        for file in [
            release,
            folder.join("Packages"),
            folder.join("Packages.gz"),
            folder.join("Packages.xz"),
        ] {
            File::options().append(true).open(&file)?.set_modified(modified)?;
        }
        Ok(())
    }

    fn ftparchive(&self) -> Command {
        let mut command = clean_command("apt-ftparchive");
        command.current_dir(&self.root);
        command
    }

    fn pool_folder(&self, package: &str) -> PathBuf {
        let initial = package.get(..1).unwrap_or("0");
        self.root.join("pool/main").join(initial).join(package)
    }
}

/// The time that new indices shall carry: two seconds after the present ones, beginning an hour ago.
///
/// Apt asks with If-Modified-Since, which knows whole seconds. A real archive publishes every few hours; a test that
/// publishes twice within a second would be answered 304 by a server that does nothing wrong. And a time in the future
/// must not be sent as Last-Modified, so there is room to count up.
fn time_of_release(present: &Path) -> Result<SystemTime> {
    match fs::metadata(present) {
        Ok(metadata) => Ok(metadata.modified()? + Duration::from_secs(2)),
        Err(_) => Ok(SystemTime::now() - Duration::from_secs(3600)),
    }
}

/// The machine's Debian architecture.
fn architecture() -> Result<String> {
    let finished = run(clean_command("dpkg").arg("--print-architecture"), LOCAL_LIMIT)?;
    Ok(finished.text().trim().to_owned())
}

/// A control field of a package file.
fn field(file: &Path, name: &str) -> Result<String> {
    let finished = run(
        clean_command("dpkg-deb").arg("--field").arg(file).arg(name),
        LOCAL_LIMIT,
    )?;
    let value = finished.text().trim().to_owned();
    if value.is_empty() {
        bail!("{} has no field {name}", file.display());
    }
    Ok(value)
}

/// Takes a package apart and builds it again with another version.
fn rebuild(old: &Path, version: &str, work: &Path) -> Result<PathBuf> {
    let (contents, rebuilt) = (work.join("contents"), work.join("rebuilt.deb"));
    run(
        clean_command("dpkg-deb").arg("--raw-extract").arg(old).arg(&contents),
        LOCAL_LIMIT,
    )?;
    let control = contents.join("DEBIAN/control");
    let text = fs::read_to_string(&control).context("the package has no readable control file")?;
    let lines = text.lines().map(|line| match line.strip_prefix("Version:") {
        Some(_) => format!("Version: {version}\n"),
        None => format!("{line}\n"),
    });
    fs::write(&control, lines.collect::<String>())?;
    run(
        clean_command("dpkg-deb")
            .args(["--root-owner-group", "--build"])
            .arg(&contents)
            .arg(&rebuilt),
        LOCAL_LIMIT,
    )?;
    Ok(rebuilt)
}

/// The package file in the cache of this workspace; downloaded if it is not there.
fn downloaded(package: &str) -> Result<PathBuf> {
    let cache = cache_folder("debian")?;
    let lock = File::create(cache.join("lock")).context("cannot open the lock of the package cache")?;
    lock.lock().context("cannot lock the package cache")?;
    let folder = cache.join("packages").join(package);
    if let Some(file) = only_deb(&folder) {
        return Ok(file);
    }
    let fresh = cache.join("fresh");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh)?;
    download(package, &cache, &fresh)?;
    fs::create_dir_all(cache.join("packages"))?;
    fs::rename(&fresh, &folder).context("cannot move the download into the cache")?;
    only_deb(&folder).context("apt-get download left no package")
}

fn only_deb(folder: &Path) -> Option<PathBuf> {
    let mut files = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.find(|path| path.extension().is_some_and(|extension| extension == "deb"))
}

/// `apt-get download` with lists of our own: a machine that has none (or old ones) is helped without changing it.
fn download(package: &str, cache: &Path, into: &Path) -> Result<()> {
    let lists = cache.join("lists");
    fs::create_dir_all(lists.join("partial"))?;
    fs::create_dir_all(cache.join("archives/partial"))?;
    let apt_get = |arguments: &[&str]| {
        // Unlike the client under test, this one uses the machine's sources, and the proxy if the machine needs one.
        let mut command = Command::new("apt-get");
        command
            .env("LC_ALL", "C.UTF-8")
            .current_dir(into)
            .args(["-o", "APT::Sandbox::User=root"]);
        command.arg("-o").arg(format!("Dir::State::lists={}", lists.display()));
        command
            .arg("-o")
            .arg(format!("Dir::Cache={}", cache.display()))
            .args(arguments);
        run(&mut command, DOWNLOAD_LIMIT)
    };
    if apt_get(&["download", package]).is_ok() {
        return Ok(());
    }
    apt_get(&["update"]).context("cannot refresh the lists of Debian packages")?;
    apt_get(&["download", package])?;
    Ok(())
}

/// A real apt with a root of its own, whose only source is the archive under test.
#[derive(Debug)]
pub struct AptClient {
    root: PathBuf,
}

impl AptClient {
    /// Makes the client's folders in `root`; `base_url` is where `dists/` and `pool/` are.
    pub fn new(root: &Path, base_url: &str) -> Result<Self> {
        for folder in [
            "state/lists/partial",
            "cache/archives/partial",
            "etc/parts",
            "log",
            "downloads",
        ] {
            let path = root.join(folder);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        fs::write(root.join("status"), "")?;
        let client = Self {
            root: root.to_path_buf(),
        };
        fs::write(root.join("apt.conf"), client.configuration(&architecture()?))?;
        client.set_source(base_url)?;
        Ok(client)
    }

    /// Points the client at another URL.
    pub fn set_source(&self, base_url: &str) -> Result<()> {
        let line = format!("deb [trusted=yes] {base_url} stable main\n");
        fs::write(self.root.join("etc/sources.list"), line).context("cannot write sources.list")
    }

    /// `apt-get update`; an error if any index could not be fetched. Returns what apt said.
    pub fn update(&self) -> Result<String> {
        // Apt keeps going with old indices unless it is told that this is an error.
        let finished = run(
            self.apt("apt-get")
                .args(["-o", "APT::Update::Error-Mode=any", "update"]),
            LOCAL_LIMIT,
        )?;
        Ok(finished.transcript())
    }

    /// `apt-get update` as people run it, going on with old indices where new ones cannot be had. Returns what apt said.
    pub fn try_update(&self) -> Result<String> {
        Ok(run(self.apt("apt-get").arg("update"), LOCAL_LIMIT)?.transcript())
    }

    /// The version that apt would install, or none if it does not know the package.
    pub fn candidate(&self, package: &str) -> Result<Option<String>> {
        let text = run(self.apt("apt-cache").args(["policy", package]), LOCAL_LIMIT)?.text();
        let candidate = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        Ok(candidate.filter(|version| *version != "(none)").map(str::to_owned))
    }

    /// Every version that apt knows, newest first.
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        let text = run(self.apt("apt-cache").args(["madison", package]), LOCAL_LIMIT)?.text();
        Ok(text
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(|version| version.trim().to_owned())
            .collect())
    }

    /// `apt-get download`: the bytes of the candidate's package file, whose hashes apt has checked.
    pub fn download(&self, package: &str) -> Result<Vec<u8>> {
        let folder = self.root.join("downloads");
        fs::remove_dir_all(&folder)?;
        fs::create_dir(&folder)?;
        run(
            self.apt("apt-get").args(["download", package]).current_dir(&folder),
            LOCAL_LIMIT,
        )?;
        let file = only_deb(&folder).with_context(|| format!("apt-get download {package} left no package"))?;
        fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = clean_command(program);
        command
            .env("APT_CONFIG", self.root.join("apt.conf"))
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// APT_CONFIG is read before everything else, so the machine's configuration folder is never looked at.
    fn configuration(&self, architecture: &str) -> String {
        let root = self.root.display();
        format!(
            "Dir::Etc::parts \"{root}/etc/parts\";\n\
             Dir::Etc::main \"/dev/null\";\n\
             Dir::Etc::sourcelist \"{root}/etc/sources.list\";\n\
             Dir::Etc::sourceparts \"{root}/etc/parts\";\n\
             Dir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"{root}/etc/parts\";\n\
             Dir::Etc::trusted \"/dev/null\";\n\
             Dir::Etc::trustedparts \"{root}/etc/parts\";\n\
             Dir::State \"{root}/state\";\n\
             Dir::State::status \"{root}/status\";\n\
             Dir::Cache \"{root}/cache\";\n\
             Dir::Log \"{root}/log\";\n\
             APT::Architecture \"{architecture}\";\n\
             APT::Architectures {{ \"{architecture}\"; }};\n\
             APT::Sandbox::User \"root\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"0\";\n\
             Acquire::http::Proxy \"DIRECT\";\n\
             Acquire::http::Timeout \"20\";\n"
        )
    }
}
