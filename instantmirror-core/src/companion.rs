//! Names whose absence means something. Pure: what is present is asked of the caller.
//!
//! Clients look for some files without having been told of them: a signature beside what it signs, another form of the
//! same index, an index page. When a publisher takes such a file away, its absence is the message, and a copy from an older
//! snapshot beside newer files spoils them: a signature of the old `core.db` makes pacman refuse the new one. So
//! [`grace`](crate::grace) serves these only where what they stand beside is gone as well:
//!
//! | name | is optional beside |
//! |---|---|
//! | `X.sig`, `X.asc`, `X.gpg`, `X.sign`, `X.minisig`, `X.sigstore`, `X.p7s`, `X.key`, `X.jcat`, `X.prov`, `X.provenance` | `X`, and `X.gz`, `X.xz`, … if X is a `.tar` |
//! | `X.md5`, `X.sha1`, `X.sha256`, `X.sha512`, the same with `sum`, `X.b2`, `X.CHECKSUM`, `X.metadata`, `X.zsync` | the same |
//! | `InRelease`, `Release` (apt; `Release.gpg` is a signature) | each other |
//! | `PACKAGES`, `PACKAGES.gz`, `PACKAGES.xz`, `PACKAGES.rds` (R) | each other |
//! | `repodata.json`, `current_repodata.json`, each also with `.zst`, `.bz2`, `.gz`, `.xz`; `repodata.jlap`, `repodata_shards.msgpack.zst` (conda) | the forms of each |
//! | `summary`, `summary.idx` (ostree); `.treeinfo`, `treeinfo`; `meta`, `meta.conf`, `meta.txz` (FreeBSD pkg) | each other |
//! | `index.html`, `index.htm` | their directory |
//!
//! A companion of an optional file is optional beside the same: `Release.gpg` beside `InRelease`, `summary.idx.sig` beside `summary`.
//!
//! Files that metadata names with a checksum are not among them (`Packages.gz`, `primary.xml.zst`): who has the old metadata needs
//! it, and who has the new does not ask.

use crate::RepoPath;
use crate::rules::{GlobError, PathGlobs};

/// Ends of the names of signatures, keys and checksums beside what they belong to.
const COMPANIONS: [&str; 27] = [
    ".sig",
    ".asc",
    ".gpg",
    ".sign",
    ".minisig",
    ".sigstore",
    ".p7s",
    ".key",
    ".jcat",
    ".prov",
    ".provenance",
    ".metadata",
    ".md5",
    ".md5sum",
    ".sha1",
    ".sha1sum",
    ".sha224",
    ".sha256",
    ".sha256sum",
    ".sha384",
    ".sha512",
    ".sha512sum",
    ".b2",
    ".b2sum",
    ".b3",
    ".CHECKSUM",
    ".zsync",
];
/// The end of archives that are signed as they are and published packed (kernel.org).
const ARCHIVE: &str = ".tar";
/// How they are packed.
const PACKINGS: [&str; 5] = [".gz", ".xz", ".bz2", ".zst", ".lz"];
/// Names that stand for one another.
const ALTERNATIVES: [&[&str]; 7] = [
    &["InRelease", "Release"],
    &["PACKAGES", "PACKAGES.gz", "PACKAGES.xz", "PACKAGES.rds"],
    &[
        "repodata.json",
        "repodata.json.zst",
        "repodata.json.bz2",
        "repodata.json.gz",
        "repodata.json.xz",
        "repodata.jlap",
        "repodata_shards.msgpack.zst",
    ],
    &[
        "current_repodata.json",
        "current_repodata.json.zst",
        "current_repodata.json.bz2",
        "current_repodata.json.gz",
        "current_repodata.json.xz",
    ],
    &["summary", "summary.idx"],
    &[".treeinfo", "treeinfo"],
    &["meta", "meta.conf", "meta.txz"],
];
/// Names that stand for their directory.
const INDEXES: [&str; 2] = ["index.html", "index.htm"];

/// Which paths are never found by grace.
#[derive(Debug, Clone, Default)]
pub struct GraceRule {
    /// Whether optional files are, beside what they belong to.
    serves_optional: bool,
    never: PathGlobs,
}

impl GraceRule {
    /// The rule above, and what these globs match is never found. With `serves_optional` the globs alone count.
    ///
    /// # Errors
    /// [`GlobError`] for the first glob that is none.
    pub fn new<T: Into<String>>(never: impl IntoIterator<Item = T>, serves_optional: bool) -> Result<Self, GlobError> {
        let never = PathGlobs::new(never)?;
        Ok(Self { serves_optional, never })
    }

    /// Whether a path that the current snapshot lacks may be found in an older one. `is_present` tells whether a path is
    /// in the current snapshot, whatever lies there.
    ///
    /// # Errors
    /// Those of `is_present`.
    pub fn allows<E>(
        &self,
        path: &RepoPath,
        mut is_present: impl FnMut(&RepoPath) -> Result<bool, E>,
    ) -> Result<bool, E> {
        if self.never.matches(path) {
            return Ok(false);
        }
        if self.serves_optional {
            return Ok(true);
        }
        for beside in optional_beside(path) {
            if is_present(&beside)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The paths beside which this one is optional; none: it is not.
fn optional_beside(path: &RepoPath) -> Vec<RepoPath> {
    let text = path.as_str();
    let (directory, name) = text.rsplit_once('/').unwrap_or(("", text));
    let in_directory = |name: &str| match directory {
        "" => RepoPath::new(name).ok(),
        directory => RepoPath::new(format!("{directory}/{name}")).ok(),
    };
    if INDEXES.contains(&name) {
        return RepoPath::new(directory).into_iter().collect();
    }
    names_beside(name)
        .iter()
        .filter_map(|name| in_directory(name))
        .collect()
}

/// The same for a name in its directory.
fn names_beside(name: &str) -> Vec<String> {
    let alternatives = ALTERNATIVES.iter().filter(|names| names.contains(&name));
    let others = alternatives.flat_map(|names| names.iter().filter(|other| **other != name));
    let mut beside: Vec<String> = others.map(|other| (*other).to_owned()).collect();
    let described = COMPANIONS.iter().find_map(|end| name.strip_suffix(end));
    if let Some(described) = described.filter(|described| !described.is_empty()) {
        beside.push(described.to_owned());
        if described.ends_with(ARCHIVE) {
            beside.extend(PACKINGS.iter().map(|packing| format!("{described}{packing}")));
        }
        // It has become shorter, so this ends.
        beside.extend(names_beside(described));
    }
    beside
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn allows(rule: &GraceRule, path: &str, present: &[&str]) -> bool {
        let asked = rule.allows(&RepoPath::new(path).unwrap(), |path| {
            Ok::<_, Infallible>(present.contains(&path.as_str()))
        });
        asked.unwrap()
    }

    #[test]
    fn optional_files_come_from_grace_only_without_what_they_belong_to() {
        let rule = GraceRule::default();
        for (path, beside) in [
            ("core/os/x86_64/core.db.sig", "core/os/x86_64/core.db"),
            ("pool/a_1.dsc.asc", "pool/a_1.dsc"),
            ("repodata/repomd.xml.asc", "repodata/repomd.xml"),
            ("repodata/repomd.xml.key", "repodata/repomd.xml"),
            ("dists/x/Release.gpg", "dists/x/Release"),
            ("dists/x/InRelease", "dists/x/Release"),
            ("dists/x/Release", "dists/x/InRelease"),
            ("linux-6.1.tar.sign", "linux-6.1.tar"),
            ("linux-6.1.tar.sign", "linux-6.1.tar.xz"),
            ("dists/x/Release.gpg", "dists/x/InRelease"),
            ("summary.idx", "summary"),
            ("summary.idx.sig", "summary"),
            ("os/.treeinfo", "os/treeinfo"),
            ("FreeBSD/meta.conf", "FreeBSD/meta.txz"),
            ("charts/a-1.0.tgz.prov", "charts/a-1.0.tgz"),
            ("simple/a-1.0.whl.metadata", "simple/a-1.0.whl"),
            ("image.iso.sha512sum", "image.iso"),
            ("noarch/repodata.jlap", "noarch/repodata.json"),
            ("src/contrib/PACKAGES.rds", "src/contrib/PACKAGES.gz"),
            ("noarch/repodata.json.zst", "noarch/repodata.json"),
            ("noarch/current_repodata.json", "noarch/current_repodata.json.bz2"),
            ("docs/index.html", "docs"),
            ("index.html", ""),
        ] {
            assert!(!allows(&rule, path, &[beside]), "{path} beside {beside}");
            assert!(allows(&rule, path, &["something/else"]), "{path} alone");
        }
        // Files that metadata names, and some that only look so.
        for path in [
            "dists/x/Packages.gz",
            "repodata/primary.xml.gz",
            "a-1.0.tar.gz",
            ".sig",
            "x/.asc",
        ] {
            assert!(
                allows(
                    &rule,
                    path,
                    &["dists/x/Packages", "repodata/primary.xml", "a-1.0.tar", "x", ""]
                ),
                "{path}"
            );
        }
    }

    #[test]
    fn the_operator_may_add_paths_and_switch_the_rule_off() {
        let rule = GraceRule::new(["*.torrent", "/private/"], false).unwrap();
        assert!(!allows(&rule, "a/b.torrent", &[]) && !allows(&rule, "private/x", &[]));
        assert!(allows(&rule, "a/private/x", &[]) && !allows(&rule, "a.sig", &["a"]));
        let rule = GraceRule::new(["*.torrent"], true).unwrap();
        assert!(!allows(&rule, "a/b.torrent", &[]) && allows(&rule, "a.sig", &["a"]));
        assert!(GraceRule::new(["["], false).is_err());
    }
}
