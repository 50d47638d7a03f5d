//! A yum repository of RPMs built on the spot, and dnf to read it.
//!
//! Never touches the machine's rpm database, dnf cache or configuration: rpmbuild has its own top folder, dnf its own
//! install root, cache, state, logs and list of repositories, and both have a home folder of their own (Debian's rpm
//! keeps its database in the home folder).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::command::{clean_command, run};
use crate::process::TestDir;
use crate::tree::noise;

/// The packages of a new repository and the size of the file in each.
pub const PACKAGES: &[(&str, usize)] = &[("im-alpha", 100), ("im-beta", 70_000), ("im-gamma", 1_000_000)];

/// How long a local tool or a client of a local server may take.
const LOCAL_LIMIT: Duration = Duration::from_secs(180);

/// The name of the one repository that the client knows.
const REPOSITORY_ID: &str = "testkit";

/// A yum repository in a folder: `Packages/` and `repodata/`.
#[derive(Debug)]
pub struct Repository {
    root: PathBuf,
}

impl Repository {
    /// Builds a repository of [`PACKAGES`], each in version 1.0, in `root`.
    pub fn build(root: &Path) -> Result<Self> {
        let repository = Self {
            root: root.to_path_buf(),
        };
        for (package, bytes) in PACKAGES {
            repository.add(package, "1.0", *bytes)?;
        }
        repository.write_metadata()?;
        Ok(repository)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of a package; an error unless there is exactly one.
    pub fn package_file(&self, package: &str) -> Result<PathBuf> {
        let mut files = self.package_files(package)?;
        match (files.pop(), files.is_empty()) {
            (Some(file), true) => Ok(file),
            _ => bail!("{} does not hold exactly one file of {package}", self.root.display()),
        }
    }

    /// Puts another version of a package in the place of the present one and writes the metadata anew.
    pub fn publish(&self, package: &str, version: &str) -> Result<()> {
        let old = self.package_files(package)?;
        let bytes = PACKAGES
            .iter()
            .find(|(name, _)| *name == package)
            .map_or(1000, |(_, bytes)| *bytes);
        self.add(package, version, bytes)?;
        for file in old {
            fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
        self.write_metadata()
    }

    /// Builds a package; the metadata does not know it before [`Repository::write_metadata`].
    pub fn add(&self, package: &str, version: &str, bytes: usize) -> Result<()> {
        let work = TestDir::new("rpm")?;
        let sources = work.folder("SOURCES")?;
        fs::write(sources.join("data"), noise(bytes))?;
        let spec = work.path().join("package.spec");
        fs::write(&spec, spec_text(package, version))?;
        let packages = self.root.join("Packages");
        fs::create_dir_all(&packages).with_context(|| format!("cannot make {}", packages.display()))?;
        let mut command = clean_command("rpmbuild");
        command.env("HOME", work.path()).arg("-bb");
        command
            .arg("--define")
            .arg(format!("_topdir {}", work.path().display()));
        command.arg("--define").arg(format!("_rpmdir {}", packages.display()));
        command
            .arg("--define")
            .arg("_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm");
        run(command.arg(&spec), LOCAL_LIMIT).with_context(|| format!("cannot build {package}-{version}"))?;
        Ok(())
    }

    /// Writes `repodata/` for the packages that are there now.
    pub fn write_metadata(&self) -> Result<()> {
        run(
            clean_command("createrepo_c").arg("--quiet").arg(&self.root),
            LOCAL_LIMIT,
        )?;
        Ok(())
    }

    fn package_files(&self, package: &str) -> Result<Vec<PathBuf>> {
        let folder = self.root.join("Packages");
        let prefix = format!("{package}-");
        let mut files = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                files.push(entry.path());
            }
        }
        Ok(files)
    }
}

fn spec_text(package: &str, version: &str) -> String {
    format!(
        "Name: {package}\n\
         Version: {version}\n\
         Release: 1\n\
         Summary: Package {package} of a test repository\n\
         License: MIT\n\
         BuildArch: noarch\n\
         Source0: data\n\
         %description\n\
         Made by the tests of a mirror.\n\
         %install\n\
         install -D -m 644 %{{SOURCE0}} %{{buildroot}}/usr/share/{package}/data\n\
         echo {version} > %{{buildroot}}/usr/share/{package}/version\n\
         %files\n\
         /usr/share/{package}\n"
    )
}

/// A real dnf with an install root of its own, whose only source is the repository under test.
#[derive(Debug)]
pub struct DnfClient {
    root: PathBuf,
}

impl DnfClient {
    /// Makes the client's folders in `root`; `base_url` is where `repodata/` is.
    pub fn new(root: &Path, base_url: &str) -> Result<Self> {
        for folder in [
            "repos",
            "cache",
            "persist",
            "log",
            "vars",
            "plugins",
            "install",
            "home",
            "downloads",
        ] {
            let path = root.join(folder);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        fs::write(root.join("dnf.conf"), "[main]\n")?;
        let client = Self {
            root: root.to_path_buf(),
        };
        client.set_source(base_url)?;
        Ok(client)
    }

    /// Points the client at another URL.
    pub fn set_source(&self, base_url: &str) -> Result<()> {
        let text = format!(
            "[{REPOSITORY_ID}]\nname={REPOSITORY_ID}\nbaseurl={base_url}\nenabled=1\ngpgcheck=0\nrepo_gpgcheck=0\n\
             skip_if_unavailable=0\nretries=1\ntimeout=20\n"
        );
        fs::write(self.root.join("repos/testkit.repo"), text).context("cannot write the list of repositories")
    }

    /// `dnf makecache --refresh`: fetches the metadata anew. Returns what dnf said.
    pub fn makecache(&self) -> Result<String> {
        Ok(run(self.dnf().args(["--refresh", "makecache"]), LOCAL_LIMIT)?.transcript())
    }

    /// `dnf repoquery`: the newest version and release of a package that dnf knows, for example `1.0-1`.
    pub fn available(&self, package: &str) -> Result<Option<String>> {
        let query = [
            "--cacheonly",
            "repoquery",
            "--latest-limit=1",
            "--queryformat=%{evr}",
            package,
        ];
        let text = run(self.dnf().arg("--quiet").args(query), LOCAL_LIMIT)?.text();
        Ok(text
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty())
            .map(str::to_owned))
    }

    /// `dnf download`: the bytes of the newest package file, whose hash dnf has checked.
    pub fn download(&self, package: &str) -> Result<Vec<u8>> {
        let folder = self.root.join("downloads");
        fs::remove_dir_all(&folder)?;
        fs::create_dir(&folder)?;
        run(
            self.dnf().arg("download").arg("--destdir").arg(&folder).arg(package),
            LOCAL_LIMIT,
        )?;
        let mut files = fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
        let file = files
            .next()
            .with_context(|| format!("dnf download {package} left no package"))?;
        fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
    }

    /// `dnf reposync`: all packages and metadata, into a folder.
    pub fn reposync(&self, folder: &Path) -> Result<PathBuf> {
        run(
            self.dnf()
                .args(["reposync", "--download-metadata", "--download-path"])
                .arg(folder),
            LOCAL_LIMIT,
        )?;
        Ok(folder.join(REPOSITORY_ID))
    }

    fn dnf(&self) -> Command {
        let mut command = clean_command("dnf");
        command
            .env("HOME", self.root.join("home"))
            .arg("--config")
            .arg(self.root.join("dnf.conf"));
        // This plugin alone writes to a fixed place of the machine.
        command.arg("--disableplugin=generate_completion_cache");
        // Any release will do, but dnf refuses to guess one; noarch packages fit every architecture.
        command
            .arg("--assumeyes")
            .arg("--installroot")
            .arg(self.root.join("install"))
            .args(["--releasever", "1"]);
        let folders = [
            ("reposdir", "repos"),
            ("cachedir", "cache"),
            ("system_cachedir", "cache"),
            ("persistdir", "persist"),
            ("logdir", "log"),
            ("varsdir", "vars"),
            ("pluginconfpath", "plugins"),
        ];
        for (option, folder) in folders {
            command.arg(format!("--setopt={option}={}", self.root.join(folder).display()));
        }
        command
    }
}
