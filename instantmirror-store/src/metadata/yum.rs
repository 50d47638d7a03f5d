//! Repositories of RPMs: `repodata/repomd.xml`, and the packages that its `primary` names.

use std::io::{BufRead, BufReader};

use instantmirror_core::{FileMeta, RepoPath};

use super::check::{Checker, Expected, Scope};
use super::digests::{Digest, HashKind, Hashing};
use super::names::{Entry, Named, join};
use super::unpack::{Packing, UNPACKED_BYTES_MAX};
use super::xml::{Part, Tag, XmlParts};
use super::{Fault, MetadataError};

/// Most data files of one repository; real ones have some twenty.
const DATA_MAX: usize = 10_000;
/// Most bytes of a text that is kept: hashes and numbers.
const TEXT_BYTES_MAX: usize = 1000;

/// A data file that `repomd.xml` names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Data {
    kind: String,
    location: Location,
    checksum: Option<Stated>,
    open_checksum: Option<Stated>,
    size: Option<u64>,
    open_size: Option<u64>,
}

/// A package that `primary` names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Package {
    location: Location,
    checksum: Option<Stated>,
    size: Option<u64>,
}

/// Where a file is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Location {
    href: Option<String>,
    /// `xml:base`: the file is relative to this, instead of to the repository.
    base: Option<String>,
}

/// A hash as it is stated: the name of its kind, and its digits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stated {
    kind: String,
    hex: String,
}

impl Stated {
    /// `None` for a kind that is not worth comparing.
    fn digest(&self) -> Option<Digest> {
        Some(Digest::new(HashKind::of(&self.kind)?, &self.hex))
    }
}

impl Location {
    fn of(tag: &Tag<'_>) -> Self {
        Self {
            href: tag.attribute("href"),
            base: tag.attribute("xml:base"),
        }
    }

    /// What it names in a repository at `base`; `None` if it names nothing.
    fn resolve(&self, base: &RepoPath) -> Option<(String, Named)> {
        let href = self.href.as_deref().filter(|href| !href.is_empty())?;
        let named = match self.base.as_deref().filter(|base| !base.is_empty()) {
            None => join(base, href),
            Some(other) if other.contains(':') => Named::Elsewhere,
            Some(other) => join(base, &format!("{other}/{href}")),
        };
        Some((href.to_owned(), named))
    }
}

/// The data files that a `repomd.xml` names.
///
/// # Errors
/// Why it is none, for people.
pub fn read_repomd(content: impl BufRead) -> Result<Vec<Data>, String> {
    let mut found = Vec::new();
    read_items(content, "data", &mut |data: Data| {
        found.push(data);
        if found.len() > DATA_MAX {
            return Err(format!("it names more than {DATA_MAX} files"));
        }
        Ok(())
    })?;
    Ok(found)
}

/// Visits the packages that a `primary.xml` names.
///
/// # Errors
/// Why it is none, for people; what `visit` returns.
pub fn read_primary(content: impl BufRead, visit: &mut dyn FnMut(Package) -> Result<(), String>) -> Result<(), String> {
    read_items(content, "package", visit)
}

/// What is gathered of one element and the ones in it.
trait Item: Default {
    fn begin(&mut self, tag: &Tag<'_>);
    /// An element directly in it begins.
    fn part(&mut self, name: &str, tag: &Tag<'_>);
    /// The text of an element directly in it.
    fn text(&mut self, name: &str, text: String) -> Result<(), String>;
}

fn read_items<T: Item>(
    content: impl BufRead,
    element: &str,
    visit: &mut dyn FnMut(T) -> Result<(), String>,
) -> Result<(), String> {
    let mut parts = XmlParts::new(content);
    let mut item: Option<T> = None;
    let mut open: Option<(String, String)> = None;
    while let Some(part) = parts.next()? {
        match part {
            Part::Start { depth: 2, tag } if tag.name() == element => {
                item.insert(T::default()).begin(&tag);
            }
            Part::Start { depth: 3, tag } => {
                if let Some(item) = &mut item {
                    let name = tag.name();
                    item.part(&name, &tag);
                    open = Some((name, String::new()));
                }
            }
            Part::Text(text) => {
                if let Some((_, gathered)) = &mut open
                    && gathered.len() + text.len() <= TEXT_BYTES_MAX
                {
                    gathered.push_str(&text);
                }
            }
            Part::End { depth: 3 } => {
                if let (Some(item), Some((name, text))) = (&mut item, open.take()) {
                    item.text(&name, text.trim().to_owned())?;
                }
            }
            Part::End { depth: 2 } => {
                if let Some(item) = item.take() {
                    visit(item)?;
                }
            }
            Part::Start { .. } | Part::End { .. } => {}
        }
    }
    Ok(())
}

fn stated(tag: &Tag<'_>) -> Option<Stated> {
    let kind = tag.attribute("type").unwrap_or_default();
    Some(Stated {
        kind,
        hex: String::new(),
    })
}

fn number(name: &str, text: &str) -> Result<Option<u64>, String> {
    let number = text.parse();
    number
        .map(Some)
        .map_err(|_| format!("the {name} of a file is no number"))
}

impl Item for Data {
    fn begin(&mut self, tag: &Tag<'_>) {
        self.kind = tag.attribute("type").unwrap_or_default();
    }

    fn part(&mut self, name: &str, tag: &Tag<'_>) {
        match name {
            "location" => self.location = Location::of(tag),
            "checksum" => self.checksum = stated(tag),
            "open-checksum" => self.open_checksum = stated(tag),
            _ => {}
        }
    }

    fn text(&mut self, name: &str, text: String) -> Result<(), String> {
        match (name, &mut self.checksum, &mut self.open_checksum) {
            ("checksum", Some(stated), _) | ("open-checksum", _, Some(stated)) => stated.hex = text,
            ("size", ..) => self.size = number(name, &text)?,
            ("open-size", ..) => self.open_size = number(name, &text)?,
            _ => {}
        }
        Ok(())
    }
}

impl Item for Package {
    fn begin(&mut self, _: &Tag<'_>) {}

    fn part(&mut self, name: &str, tag: &Tag<'_>) {
        match name {
            "location" => self.location = Location::of(tag),
            "checksum" => self.checksum = stated(tag),
            "size" => self.size = tag.attribute("package").and_then(|size| size.parse().ok()),
            _ => {}
        }
    }

    fn text(&mut self, name: &str, text: String) -> Result<(), String> {
        if let ("checksum", Some(stated)) = (name, &mut self.checksum) {
            stated.hex = text;
        }
        Ok(())
    }
}

/// Checks a repository, as far as `scope` says.
pub(super) fn check(
    checker: &mut Checker<'_>,
    path: &RepoPath,
    base: &RepoPath,
    scope: &mut Scope<'_>,
) -> Result<(), MetadataError> {
    let Some((real, repomd)) = checker.tree.file(path)? else {
        return Ok(());
    };
    checker.read_bytes += repomd.size;
    let content = checker.tree.open(&real, &repomd)?;
    let listed = match read_repomd(BufReader::new(content)) {
        Ok(listed) => listed,
        Err(reason) => {
            checker.problem(path, Fault::Unreadable { reason });
            return Ok(());
        }
    };
    for data in listed {
        let Some((name, named)) = data.location.resolve(base) else {
            let reason = format!("the data '{}' has no location", data.kind);
            checker.problem(path, Fault::Unreadable { reason });
            continue;
        };
        let expected = Expected {
            size: data.size,
            digest: data.checksum.as_ref().and_then(Stated::digest),
            always_hash: true,
        };
        let Some((real, file)) = checker.named(path, &name, &[named], &expected)? else {
            continue;
        };
        // Of the other files none names packages that a client could not do without.
        if data.kind == "primary" {
            primary(checker, &real, &file, base, &data, scope)?;
        }
    }
    Ok(())
}

fn primary(
    checker: &mut Checker<'_>,
    path: &RepoPath,
    file: &FileMeta,
    base: &RepoPath,
    data: &Data,
    scope: &mut Scope<'_>,
) -> Result<(), MetadataError> {
    let entry = Entry::Yum { base: base.clone() };
    // A new repomd.xml may state something else of an index that is as it was.
    let anew = scope.is_full();
    let Some(mut pass) = scope.begin(checker, path, &entry, anew) else {
        return Ok(());
    };
    checker.read_bytes += file.size;
    let packing = Packing::of(path.as_str()).0;
    let limit = data.open_size.unwrap_or(UNPACKED_BYTES_MAX).min(UNPACKED_BYTES_MAX);
    let open_digest = data.open_checksum.as_ref().and_then(Stated::digest);
    let unreadable = |error: std::io::Error| error.to_string();
    let mut failed = Ok(());
    let read = (|| {
        let unpacked = packing.unpack(checker.tree.open(path, file).map_err(|error| error.to_string())?, limit);
        let mut hashing = Hashing::new(
            unpacked.map_err(unreadable)?,
            open_digest.as_ref().map(|open| open.kind),
        );
        let mut content = BufReader::with_capacity(64 << 10, &mut hashing);
        read_primary(&mut content, &mut |package| {
            failed = package_is_there(checker, path, base, &package, &mut pass);
            failed.as_ref().map(|_| ()).map_err(ToString::to_string)
        })?;
        std::io::copy(&mut content, &mut std::io::sink()).map_err(unreadable)?;
        match (hashing.finish(), open_digest, data.open_size) {
            ((_, Some(is)), Some(stated), _) if !stated.is(&is) => Err("unpacked it is not what repomd.xml states"),
            ((is, _), _, Some(stated)) if is != stated => Err("unpacked it has another size than repomd.xml states"),
            _ => Ok(()),
        }
        .map_err(str::to_owned)
    })();
    failed?;
    match read {
        Ok(()) => scope.end(checker, &pass),
        Err(reason) => checker.problem(path, Fault::Unreadable { reason }),
    }
    Ok(())
}

fn package_is_there(
    checker: &mut Checker<'_>,
    path: &RepoPath,
    base: &RepoPath,
    package: &Package,
    pass: &mut super::check::Pass,
) -> Result<(), MetadataError> {
    let Some((name, named)) = package.location.resolve(base) else {
        let reason = "a package in it has no location".to_owned();
        checker.problem(path, Fault::Unreadable { reason });
        return Ok(());
    };
    let expected = Expected {
        size: package.size,
        digest: package.checksum.as_ref().and_then(Stated::digest),
        always_hash: false,
    };
    checker.package(path, &name, &[named], &expected, pass)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    const REPOMD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<repomd xmlns="http://linux.duke.edu/metadata/repo" xmlns:rpm="http://linux.duke.edu/metadata/rpm">
  <revision>1</revision>
  <data type="primary">
    <checksum type="sha256">AB</checksum><open-checksum type="sha">cd</open-checksum>
    <location href="repodata/a&amp;b.xml.gz" xml:base="https://elsewhere/"/>
    <timestamp>1</timestamp><size> 12 </size><open-size>34</open-size>
  </data>
  <data type="other"><location href="repodata/other"/></data>
</repomd>"#;

    #[test]
    fn repomd_is_taken_apart() {
        let data = read_repomd(REPOMD.as_bytes()).unwrap();
        assert_eq!(data.len(), 2);
        assert_eq!(
            (data[0].kind.as_str(), data[0].size, data[0].open_size),
            ("primary", Some(12), Some(34))
        );
        assert_eq!(data[0].location.href.as_deref(), Some("repodata/a&b.xml.gz"));
        let base = RepoPath::new("os").unwrap();
        assert_eq!(data[0].location.resolve(&base).unwrap().1, Named::Elsewhere);
        assert!(data[0].checksum.as_ref().unwrap().digest().unwrap().is(&[0xab]));
        assert_eq!(
            data[1].location.resolve(&base).unwrap().1,
            Named::Path(RepoPath::new("os/repodata/other").unwrap())
        );
        assert_eq!(data[1].checksum, None);
    }

    #[test]
    fn what_is_no_metadata_is_refused_with_a_reason() {
        let deep = "<a>".repeat(100);
        let cut = &REPOMD[..REPOMD.len() - "</repomd>".len()];
        let no_number = REPOMD.replace(" 12 ", "twelve");
        for (content, word) in [
            ("", "ends at byte 0"),
            ("hello", "ends at byte"),
            (cut, "within an element"),
            ("<a></b>", "no XML"),
            (&deep, "nested"),
            (&no_number, "no number"),
        ] {
            let error = read_repomd(content.as_bytes()).unwrap_err();
            assert!(error.contains(word), "{content}: {error}");
        }
        assert!(read_repomd(&[b'<', b'a', 0xff, b'>'][..]).is_err());
    }

    #[test]
    fn an_element_without_an_end_does_not_fill_the_memory() {
        let endless = std::io::Cursor::new(b"<repomd attribute='".to_vec()).chain(std::io::repeat(b'x'));
        let error = read_repomd(BufReader::new(endless)).unwrap_err();
        assert!(error.contains("more than 16777216 bytes"), "{error}");
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_they_are_read_or_refused(at in 0..REPOMD.len(), with in prop::collection::vec(any::<u8>(), 0..20), cut in 0..REPOMD.len()) {
            let mut bytes = REPOMD.as_bytes().to_vec();
            let end = (at + cut % 20).min(bytes.len());
            bytes.splice(at..end, with);
            let _ = read_repomd(bytes.as_slice());
            let _ = read_primary(bytes.as_slice(), &mut |_| Ok(()));
        }
    }
}
