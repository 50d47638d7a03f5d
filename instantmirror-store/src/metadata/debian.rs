//! Debian archives: `Release` or `InRelease`, the `Packages` and `Sources` that it lists, and the files that these name.
//!
//! A `Release` lists much that a mirror may lack: uncompressed indices beside compressed ones, architectures that it
//! leaves out, `Contents`, translations, installers. So what is listed and not there is no fault, with one exception:
//! packages of a directory that is there, without an index in any form. What is listed and there has to be as listed.

use std::collections::BTreeMap;
use std::io::BufReader;

use instantmirror_core::{FileMeta, RepoPath};

use super::check::{Checker, Expected, Pass, Scope};
use super::control::{Stanza, Stanzas};
use super::digests::{Digest, HashKind};
use super::names::{Entry, Named, join};
use super::unpack::{Packing, UNPACKED_BYTES_MAX};
use super::{Fault, MetadataError};

/// In the order in which clients trust them; the last one is good for sizes only.
const RELEASE_FIELDS: &[&str] = &["SHA256", "SHA512", "SHA1", "MD5Sum"];
/// What is kept of a binary package.
const PACKAGES_FIELDS: &[&str] = &["Filename", "Size", "SHA256", "SHA512", "SHA1"];
/// What is kept of a source package.
const SOURCES_FIELDS: &[&str] = &[
    "Directory",
    "Checksums-Sha256",
    "Checksums-Sha512",
    "Checksums-Sha1",
    "Files",
];
/// A `Release` that was written into its own directory lists itself, as it was before it was finished.
const ITSELF: [&str; 3] = ["Release", "Release.gpg", "InRelease"];
/// An index of so few bytes, in whatever form, is empty.
const EMPTY_BYTES_MAX: u64 = 64;

/// One line of a list of files.
struct Listed {
    name: String,
    size: u64,
    digest: Option<Digest>,
}

/// The forms of one index of packages.
#[derive(Default)]
struct Index {
    /// Those that are here and as listed.
    here: Vec<(Packing, RepoPath, FileMeta)>,
    /// One is here, as listed or not.
    is_here: bool,
    /// It names something.
    has_content: bool,
    /// One came or went.
    is_touched: bool,
}

/// Checks what a release file leads to, as far as `scope` says.
pub(super) fn check(
    checker: &mut Checker<'_>,
    path: &RepoPath,
    entry: &Entry,
    scope: &mut Scope<'_>,
) -> Result<(), MetadataError> {
    let Some((real, release)) = checker.tree.file(path)? else {
        return Ok(());
    };
    checker.read_bytes += release.size;
    let read = read_release(BufReader::new(checker.tree.open(&real, &release)?));
    let listed = match (read, entry) {
        (Ok(listed), _) => listed,
        // Anything may be called so, outside of an archive.
        (Err(_), Entry::Flat { .. }) => return Ok(()),
        (Err(reason), _) => {
            checker.problem(path, Fault::Unreadable { reason });
            return Ok(());
        }
    };
    let dir = entry.dir();
    let mut indices: BTreeMap<RepoPath, Index> = BTreeMap::new();
    for listed in listed {
        one_listed(checker, path, &dir, listed, scope, &mut indices)?;
    }
    for (stem, mut index) in indices {
        index.here.sort_by_key(|(packing, ..)| *packing);
        if let Some((packing, index, file)) = index.here.first() {
            let is_sources = stem.as_str().ends_with("Sources");
            packages(checker, index, file, *packing, is_sources, entry, scope)?;
        } else if !index.is_here && index.has_content && (scope.is_full() || index.is_touched) {
            let parent = stem.split_last().map_or(RepoPath::ROOT, |(parent, _)| parent);
            if checker.tree.is_directory(&parent)? {
                let name = format!("{stem}, in no form");
                checker.problem(path, Fault::Missing { name });
            }
        }
    }
    Ok(())
}

fn one_listed(
    checker: &mut Checker<'_>,
    path: &RepoPath,
    dir: &RepoPath,
    listed: Listed,
    scope: &Scope<'_>,
    indices: &mut BTreeMap<RepoPath, Index>,
) -> Result<(), MetadataError> {
    let Named::Path(named) = join(dir, &listed.name) else {
        return Ok(());
    };
    if ITSELF.contains(&listed.name.as_str()) {
        return Ok(());
    }
    let (packing, stem) = Packing::of(named.as_str());
    let is_index = matches!(stem.rsplit('/').next(), Some("Packages" | "Sources"));
    // Most of what is listed is none of it: no look at the catalog where nothing changed.
    if !is_index && !scope.is_full() && !checker.is_touched(&named) {
        return Ok(());
    }
    let found = checker.tree.file(&named)?;
    let mut good = None;
    if let Some((real, file)) = &found {
        let expected = Expected {
            size: Some(listed.size),
            digest: listed.digest,
            always_hash: true,
        };
        if checker.agrees(path, &listed.name, real, file, &expected)? {
            good = Some((real.clone(), *file));
        }
    }
    if !is_index {
        return Ok(());
    }
    let Ok(stem) = RepoPath::new(stem) else { return Ok(()) };
    let index = indices.entry(stem).or_default();
    index.has_content |= listed.size > EMPTY_BYTES_MAX;
    index.is_here |= found.is_some();
    index.is_touched |= checker.is_touched(&named);
    index.here.extend(good.map(|(real, file)| (packing, real, file)));
    Ok(())
}

/// The files that a release file lists.
fn read_release(content: impl std::io::BufRead) -> Result<Vec<Listed>, String> {
    let mut stanzas = Stanzas::new(content, RELEASE_FIELDS);
    // One of a component says what is in it, and lists nothing.
    let Some(stanza) = stanzas.next_stanza()? else {
        return Err("it is empty".to_owned());
    };
    let fields = RELEASE_FIELDS.iter();
    let Some((field, list)) = fields.filter_map(|field| Some((field, stanza.field(field)?))).next() else {
        return Ok(Vec::new());
    };
    let kind = hash_kind(field);
    list.lines()
        .filter(|line| !line.is_empty())
        .map(|line| listed(line, kind))
        .collect()
}

fn hash_kind(field: &str) -> Option<HashKind> {
    let name = field.to_ascii_lowercase();
    HashKind::of(name.strip_prefix("checksums-").unwrap_or(&name))
}

/// `HASH SIZE NAME`
fn listed(line: &str, kind: Option<HashKind>) -> Result<Listed, String> {
    let mut words = line.split_ascii_whitespace();
    let parsed = (|| {
        let (hash, size, name) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        Some(Listed {
            name: name.to_owned(),
            size,
            digest: kind.map(|kind| Digest::new(kind, hash)),
        })
    })();
    parsed.ok_or_else(|| {
        let line: String = line.chars().take(200).collect();
        format!("'{line}' is no hash, size and name")
    })
}

/// Checks what one index names.
fn packages(
    checker: &mut Checker<'_>,
    path: &RepoPath,
    file: &FileMeta,
    packing: Packing,
    is_sources: bool,
    entry: &Entry,
    scope: &mut Scope<'_>,
) -> Result<(), MetadataError> {
    let Some(mut pass) = scope.begin(checker, path, entry, false) else {
        return Ok(());
    };
    checker.read_bytes += file.size;
    let bases = entry.bases();
    let unpacked = match packing.unpack(checker.tree.open(path, file)?, UNPACKED_BYTES_MAX) {
        Ok(unpacked) => unpacked,
        Err(error) => {
            checker.problem(
                path,
                Fault::Unreadable {
                    reason: error.to_string(),
                },
            );
            return Ok(());
        }
    };
    let wanted = if is_sources { SOURCES_FIELDS } else { PACKAGES_FIELDS };
    let mut stanzas = Stanzas::new(BufReader::with_capacity(64 << 10, unpacked), wanted);
    loop {
        let named = match stanzas.next_stanza() {
            Ok(None) => break,
            Ok(Some(stanza)) if is_sources => files_of_source(&stanza),
            Ok(Some(stanza)) => file_of_package(&stanza).map(|file| vec![file]),
            Err(reason) => Err(reason),
        };
        match named {
            Ok(files) => each(checker, path, files, &bases, &mut pass)?,
            Err(reason) => {
                checker.problem(path, Fault::Unreadable { reason });
                return Ok(());
            }
        }
    }
    scope.end(checker, &pass);
    Ok(())
}

fn each(
    checker: &mut Checker<'_>,
    path: &RepoPath,
    files: Vec<Listed>,
    bases: &[RepoPath],
    pass: &mut Pass,
) -> Result<(), MetadataError> {
    for Listed { name, size, digest } in files {
        let candidates: Vec<Named> = bases.iter().map(|base| join(base, &name)).collect();
        let expected = Expected {
            size: Some(size),
            digest,
            always_hash: false,
        };
        checker.package(path, &name, &candidates, &expected, pass)?;
    }
    Ok(())
}

fn file_of_package(stanza: &Stanza) -> Result<Listed, String> {
    let wrong = |what: &str| format!("the package at line {} has no {what}", stanza.line);
    let name = stanza.field("Filename").ok_or_else(|| wrong("Filename"))?;
    let size = stanza.field("Size").and_then(|size| size.parse().ok());
    let digest = ["SHA256", "SHA512", "SHA1"]
        .iter()
        .find_map(|field| Some(Digest::new(hash_kind(field)?, stanza.field(field)?)));
    Ok(Listed {
        name: name.to_owned(),
        size: size.ok_or_else(|| wrong("Size"))?,
        digest,
    })
}

fn files_of_source(stanza: &Stanza) -> Result<Vec<Listed>, String> {
    let dir = stanza.field("Directory").unwrap_or(".");
    let lists = SOURCES_FIELDS.iter().skip(1);
    let Some((field, list)) = lists.filter_map(|field| Some((field, stanza.field(field)?))).next() else {
        return Err(format!("the source package at line {} lists no files", stanza.line));
    };
    let lines = list.lines().filter(|line| !line.is_empty());
    let files = lines.map(|line| {
        let mut listed = listed(line, hash_kind(field))?;
        listed.name = format!("{dir}/{}", listed.name);
        Ok(listed)
    });
    files
        .collect::<Result<_, String>>()
        .map_err(|reason| format!("the source package at line {}: {reason}", stanza.line))
}
