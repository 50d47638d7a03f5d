//! Repository metadata: which files belong together, and which file of a new snapshot takes the place of which old one.
//!
//! A client that reads `repomd.xml` or `Release` asks for what they name right after. So when they change, the files
//! beside them that a mirror held in the old version are fetched in the new one at once, all together.

use crate::RepoPath;

/// Files that name the metadata beside and below them: yum and dnf, Debian, Alpine, CPAN, Arch.
const ANCHORS: &[&str] = &[
    "repomd.xml",
    "InRelease",
    "Release",
    "APKINDEX.tar.gz",
    "02packages.details.txt.gz",
];
/// Hash in front of a name, as `createrepo` puts it: from that many hexadecimal digits on.
const HASH_DIGITS_MIN: usize = 32;

/// Whether a file is one that names the metadata around it.
#[must_use]
pub fn is_anchor(path: &RepoPath) -> bool {
    path.components()
        .next_back()
        .is_some_and(|name| ANCHORS.contains(&name))
}

/// The directory whose files, with those below it, belong to an anchor; `None` for any other file.
///
/// ```
/// use instantmirror_core::{RepoPath, bundle::directory_of};
/// let path = RepoPath::new("fedora/repodata/repomd.xml")?;
/// assert_eq!(directory_of(&path), Some(RepoPath::new("fedora/repodata")?));
/// assert_eq!(directory_of(&RepoPath::new("pool/a.deb")?), None);
/// # Ok::<(), instantmirror_core::NameError>(())
/// ```
#[must_use]
pub fn directory_of(path: &RepoPath) -> Option<RepoPath> {
    is_anchor(path).then(|| parent(path))
}

/// The directory in which a file lies.
#[must_use]
pub fn parent(path: &RepoPath) -> RepoPath {
    let above = path.as_str().rsplit_once('/').map_or("", |(above, _)| above);
    // What is in front of a slash of a path is a path.
    RepoPath::new(above).unwrap_or(RepoPath::ROOT)
}

/// What stays the same of a name from one version to the next: without the hash that tools put in front of it.
///
/// ```
/// use instantmirror_core::bundle::stable_name;
/// assert_eq!(stable_name("d41d8cd98f00b204e9800998ecf8427e-primary.xml.gz"), "primary.xml.gz");
/// assert_eq!(stable_name("Packages.xz"), "Packages.xz");
/// ```
#[must_use]
pub fn stable_name(name: &str) -> &str {
    let is_hash = |text: &str| text.len() >= HASH_DIGITS_MIN && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match name.split_once('-') {
        Some((hash, rest)) if is_hash(hash) && !rest.is_empty() => rest,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RepoPath {
        RepoPath::new(text).unwrap()
    }

    #[test]
    fn anchors_stand_for_their_directory() {
        for (file, directory) in [
            ("repodata/repomd.xml", Some("repodata")),
            ("dists/stable/InRelease", Some("dists/stable")),
            ("dists/stable/Release", Some("dists/stable")),
            ("dists/stable/Release.gpg", None),
            ("v3/main/x86_64/APKINDEX.tar.gz", Some("v3/main/x86_64")),
            ("pool/Release/file", None),
        ] {
            assert_eq!(directory_of(&path(file)), directory.map(path), "{file}");
        }
        assert_eq!(directory_of(&path("Release")), Some(RepoPath::ROOT));
        assert_eq!(directory_of(&RepoPath::ROOT), None);
    }

    #[test]
    fn only_a_whole_hash_in_front_is_left_out() {
        let hash = "0123456789abcdef".repeat(4);
        for (name, stable) in [
            (format!("{hash}-filelists.xml.zst"), "filelists.xml.zst"),
            (format!("{hash}-"), &*format!("{hash}-")),
            (format!("{hash}x-a"), &*format!("{hash}x-a")),
            ("deadbeef-a".to_owned(), "deadbeef-a"),
        ] {
            assert_eq!(stable_name(&name), stable);
        }
    }
}
