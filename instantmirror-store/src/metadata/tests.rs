//! Repositories in memory: what is refused and what is not, and that a check of the changes finds what a full one does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use instantmirror_core::catalog::Difference;
use instantmirror_core::{Kind, Meta, NodeId};
use sha2::{Digest as _, Sha256, Sha512};

use super::*;

mod model;

/// A tree in memory: content by path, and symlinks of whole directories or files by path.
#[derive(Clone, Default)]
struct Memory {
    files: BTreeMap<String, Vec<u8>>,
    links: BTreeMap<String, String>,
    /// SHA-256 is not known without reading.
    has_no_table: bool,
    opened: RefCell<Vec<ObjectId>>,
}

impl Memory {
    fn put(&mut self, path: &str, content: impl AsRef<[u8]>) {
        self.files.insert(path.to_owned(), content.as_ref().to_vec());
    }

    fn meta(content: &[u8]) -> FileMeta {
        FileMeta {
            size: content.len() as u64,
            object: ObjectId::of(content),
            first_piece: 0,
            link_group: None,
        }
    }

    fn real(&self, path: &RepoPath) -> String {
        let mut path = path.as_str().to_owned();
        for (link, target) in &self.links {
            if path == *link || path.starts_with(&format!("{link}/")) {
                path = format!("{target}{}", &path[link.len()..]);
            }
        }
        path
    }

    fn metadata(&self) -> Vec<RepoPath> {
        let paths = self.files.keys().map(|path| RepoPath::new(path).unwrap());
        paths.filter(is_metadata).collect()
    }

    fn check(&self) -> Checked {
        check(self, self.metadata()).unwrap()
    }

    /// What is wrong, one a line.
    fn problems(&self) -> String {
        self.check().problems.to_string()
    }

    fn known(&self) -> Known {
        let checked = self.check();
        assert!(checked.problems.is_empty(), "{}", checked.problems);
        let root = NodeId::from_bytes([7; 32]);
        let found = checked.found;
        let known = Known { root, found };
        assert_eq!(Known::decode(&known.encode()).as_ref(), Ok(&known));
        known
    }

    fn entries(&self) -> BTreeMap<&String, Meta> {
        let entry = |kind| Meta {
            mode: 0,
            mtime: 0,
            kind,
        };
        let files = self
            .files
            .iter()
            .map(|(path, content)| (path, entry(Kind::File(Self::meta(content)))));
        let links = self
            .links
            .iter()
            .map(|(path, target)| (path, entry(Kind::Symlink(target.as_str().into()))));
        files.chain(links).collect()
    }

    fn since(&self, before: &Self, known: &Known) -> Checked {
        let (one, other) = (before.entries(), self.entries());
        let paths = one
            .keys()
            .chain(other.keys())
            .copied()
            .collect::<std::collections::BTreeSet<_>>();
        let difference = |path: &String| Difference {
            path: RepoPath::new(path).unwrap(),
            before: one.get(path).cloned(),
            after: other.get(path).cloned(),
        };
        let touched = Touched::of(paths.into_iter().map(|path| Ok(difference(path))))
            .unwrap()
            .unwrap();
        self.opened.borrow_mut().clear();
        check_since(self, known, &touched).unwrap()
    }
}

impl Tree for Memory {
    fn file(&self, path: &RepoPath) -> Result<Option<(RepoPath, FileMeta)>, MetadataError> {
        let real = self.real(path);
        let found = self.files.get(&real).map(|content| Self::meta(content));
        Ok(found.map(|file| (RepoPath::new(&real).unwrap(), file)))
    }

    fn is_directory(&self, path: &RepoPath) -> Result<bool, MetadataError> {
        let prefix = format!("{}/", self.real(path));
        Ok(path.is_root() || self.files.keys().any(|path| path.starts_with(&prefix)))
    }

    fn open(&self, _: &RepoPath, file: &FileMeta) -> Result<Box<dyn Read + '_>, MetadataError> {
        self.opened.borrow_mut().push(file.object);
        let content = self.files.values().find(|content| ObjectId::of(content) == file.object);
        Ok(Box::new(content.unwrap().as_slice()))
    }

    fn sha256(&self, object: &ObjectId) -> Result<Option<[u8; 32]>, MetadataError> {
        let content = self.files.values().find(|content| ObjectId::of(content) == *object);
        Ok(content
            .filter(|_| !self.has_no_table)
            .map(|content| Sha256::digest(content).into()))
    }
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn sha256(content: &[u8]) -> String {
    hex(Sha256::digest(content))
}

fn gzip(content: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// A yum repository in `base` (empty, or with a slash at its end) of these packages: where they are, and by what name
/// the metadata calls them.
fn yum(tree: &mut Memory, base: &str, packages: &[(&str, &str)]) {
    let mut primary = String::from(r#"<metadata xmlns="c" xmlns:rpm="r">"#);
    for (path, href) in packages {
        let content = &tree.files[*path];
        let (size, hash) = (content.len(), sha256(content));
        write!(
            primary,
            r#"<package type="rpm"><name>x</name><checksum type="sha256" pkgid="YES">{hash}</checksum>
               <size package="{size}" installed="1"/><location href="{href}"/><format><file>/size</file></format></package>"#
        )
        .unwrap();
    }
    primary += "</metadata>";
    let packed = gzip(&primary);
    let repomd = format!(
        r#"<repomd xmlns="p"><data type="primary"><checksum type="sha256">{}</checksum>
           <open-checksum type="sha256">{}</open-checksum><location href="repodata/primary.xml.gz"/>
           <size>{}</size><open-size>{}</open-size></data></repomd>"#,
        sha256(&packed),
        sha256(primary.as_bytes()),
        packed.len(),
        primary.len()
    );
    tree.put(&format!("{base}repodata/primary.xml.gz"), packed);
    tree.put(&format!("{base}repodata/repomd.xml"), repomd);
}

fn yum_tree() -> Memory {
    let mut tree = Memory::default();
    tree.put("os/Packages/a.rpm", "package a");
    tree.put("os/Packages/b+c.rpm", "package b");
    tree.put("readme", "nothing of ours");
    let packages = [
        ("os/Packages/a.rpm", "Packages/a.rpm"),
        ("os/Packages/b+c.rpm", "Packages/b%2Bc.rpm"),
    ];
    yum(&mut tree, "os/", &packages);
    tree
}

#[test]
fn a_yum_repository_is_good_or_each_fault_is_named() {
    let good = yum_tree();
    assert_eq!(good.problems(), "");
    let broken = |change: &dyn Fn(&mut Memory)| {
        let mut tree = good.clone();
        change(&mut tree);
        tree.problems()
    };
    let primary = "\n  os/repodata/primary.xml.gz: names ";
    for (said, is) in [
        (
            broken(&|tree| _ = tree.files.remove("os/Packages/a.rpm")),
            format!("{primary}Packages/a.rpm, which is missing"),
        ),
        (
            broken(&|tree| tree.put("os/Packages/a.rpm", "longer than before")),
            format!("{primary}Packages/a.rpm, which has 18 bytes instead of 9"),
        ),
        (
            broken(&|tree| tree.put("os/Packages/a.rpm", "package x")),
            format!("{primary}Packages/a.rpm, which has another SHA-256"),
        ),
        (
            broken(&|tree| _ = tree.files.remove("os/repodata/primary.xml.gz")),
            "\n  os/repodata/repomd.xml: names repodata/primary.xml.gz, which is missing".to_owned(),
        ),
        (
            broken(&|tree| tree.put("os/repodata/primary.xml.gz", "of yesterday")),
            "\n  os/repodata/repomd.xml: names repodata/primary.xml.gz, which has 12 bytes instead of".to_owned(),
        ),
        (
            broken(&|tree| tree.put("os/repodata/repomd.xml", "<repomd>")),
            "\n  os/repodata/repomd.xml: it ends at byte 8".to_owned(),
        ),
    ] {
        assert!(said.starts_with(&is), "{said}\nshould be{is}");
        assert_eq!(said.lines().count(), 2, "{said}");
    }
    // Without a table of SHA-256 the files are read.
    let mut unknown = good.clone();
    unknown.has_no_table = true;
    assert_eq!(unknown.problems(), "");
    unknown.put("os/Packages/a.rpm", "package x");
    assert!(unknown.problems().contains("another SHA-256"));
}

#[test]
fn an_index_that_is_not_what_it_was_packed_from_is_refused() {
    let mut tree = yum_tree();
    let repomd = String::from_utf8(tree.files["os/repodata/repomd.xml"].clone()).unwrap();
    let open = repomd.find("<open-checksum").unwrap();
    let mut other = repomd.clone();
    other.replace_range(open + 31..open + 33, "00");
    tree.put("os/repodata/repomd.xml", &other);
    assert!(
        tree.problems().contains("primary.xml.gz: unpacked it is not what"),
        "{}",
        tree.problems()
    );
    let size = repomd.find("<open-size>").unwrap() + 11;
    let smaller = format!("{}9{}", &repomd[..size], &repomd[size + 3..]);
    tree.put("os/repodata/repomd.xml", smaller);
    assert!(tree.problems().contains("more than 9"), "{}", tree.problems());
}

#[test]
fn what_lies_on_other_servers_is_not_looked_for_and_what_lies_beside_is() {
    let mut tree = yum_tree();
    let remote = br#"<repomd><data type="x"><location href="a" xml:base="http://elsewhere/"/><size>1</size></data>
        <data type="y"><location href="../../../above"/></data></repomd>"#;
    tree.put("remote/repodata/repomd.xml", remote);
    tree.put("all/a.rpm", "a");
    yum(&mut tree, "view/", &[("all/a.rpm", "../all/a.rpm")]);
    tree.links.insert("linked/Packages".to_owned(), "all".to_owned());
    yum(&mut tree, "linked/", &[("all/a.rpm", "Packages/a.rpm")]);
    assert_eq!(tree.problems(), "");
    // The change lies outside of both repositories, and both are found to be wrong.
    let (before, known) = (tree.clone(), tree.known());
    tree.files.remove("all/a.rpm");
    let said = tree.since(&before, &known).problems;
    assert_eq!((said.count(), said.to_string()), (2, tree.problems()));
    let mut unlinked = before.clone();
    unlinked.links.clear();
    assert_eq!(unlinked.since(&before, &known).problems.count(), 1);
}

#[test]
fn sha512_is_compared_where_a_file_has_changed() {
    let mut tree = Memory::default();
    tree.put("a.rpm", "content");
    yum(&mut tree, "", &[("a.rpm", "a.rpm")]);
    let plain = |content: &[u8]| {
        let hash = hex(Sha512::digest(content));
        format!(
            r#"<metadata><package><checksum type="sha512">{hash}</checksum><size package="7"/><location href="a.rpm"/></package></metadata>"#
        )
    };
    let repomd = |primary: &str| {
        let hash = sha256(primary.as_bytes());
        format!(
            r#"<repomd><data type="primary"><checksum type="sha256">{hash}</checksum><location href="repodata/primary.xml"/></data></repomd>"#
        )
    };
    let primary = plain(b"content");
    tree.put("repodata/repomd.xml", repomd(&primary));
    tree.put("repodata/primary.xml", primary);
    let (before, known) = (tree.clone(), tree.known());
    tree.put("a.rpm", "CONTENT");
    for said in [tree.check(), tree.since(&before, &known)] {
        assert!(
            said.problems
                .to_string()
                .contains("names a.rpm, which has another SHA-512"),
            "{}",
            said.problems
        );
    }
}

const BINARY: &str = "dists/stable/main/binary-amd64";

fn stanza(tree: &Memory, base: &str, path: &str) -> String {
    let content = &tree.files[&format!("{base}{path}")];
    format!(
        "Package: x\nFilename: {path}\nSize: {}\nSHA256: {}\n\n",
        content.len(),
        sha256(content)
    )
}

/// A list of these files and of one that is not there, as a release file has it.
fn release(tree: &Memory, dir: &str, files: &[&str]) -> String {
    let mut text = String::from("Origin: test\nMD5Sum:\n 00 1 nonsense\nSHA256:\n");
    for file in files {
        let content = &tree.files[&format!("{dir}{file}")];
        writeln!(text, " {} {} {file}", sha256(content), content.len()).unwrap();
    }
    let absent = "0".repeat(64);
    for file in [
        "Release",
        "main/Contents-amd64",
        "main/binary-arm64/Packages",
        "main/i18n/Translation-en",
    ] {
        writeln!(text, " {absent} 12345 {file}").unwrap();
    }
    text
}

fn debian_tree() -> Memory {
    let mut tree = Memory::default();
    tree.put("pool/a.deb", "package a");
    tree.put("pool/b.deb", "package b");
    tree.put("pool/s.dsc", "source");
    tree.put("project/trace/x", "1");
    let packages = stanza(&tree, "", "pool/a.deb") + &stanza(&tree, "", "./pool/b.deb".trim_start_matches("./"));
    tree.put(&format!("{BINARY}/Packages.gz"), gzip(&packages));
    tree.put(&format!("{BINARY}/Packages.bz2"), {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(packages.as_bytes()).unwrap();
        encoder.finish().unwrap()
    });
    tree.put(&format!("{BINARY}/Release"), "Archive: stable\nComponent: main\n");
    let hash = sha256(b"source");
    let sources = format!("Package: s\nDirectory: pool\nFiles:\n 00 6 s.dsc\nChecksums-Sha256:\n {hash} 6 s.dsc\n");
    tree.put("dists/stable/main/source/Sources", sources);
    sign(&mut tree);
    tree
}

/// Writes `Release` and `InRelease` anew.
fn sign(tree: &mut Memory) {
    let files = ["Packages.gz", "Packages.bz2", "Release"].map(|name| format!("main/binary-amd64/{name}"));
    let mut files: Vec<&str> = files.iter().map(String::as_str).collect();
    files.push("main/source/Sources");
    let text = release(tree, "dists/stable/", &files);
    let signed = format!(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{text}-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n"
    );
    tree.put("dists/stable/Release", text);
    tree.put("dists/stable/InRelease", signed);
}

#[test]
fn a_debian_archive_is_good_or_each_fault_is_named() {
    let good = debian_tree();
    assert_eq!(
        good.problems(),
        "",
        "what a release lists and the mirror lacks is no fault"
    );
    let packages = format!("\n  {BINARY}/Packages.gz: names ");
    let both = ["InRelease", "Release"].map(|name| format!("\n  dists/stable/{name}: names main/binary-amd64/"));
    let broken = |change: &dyn Fn(&mut Memory)| {
        let mut tree = good.clone();
        change(&mut tree);
        tree.problems()
    };
    for (said, is) in [
        (
            broken(&|tree| _ = tree.files.remove("pool/a.deb")),
            format!("{packages}pool/a.deb, which is missing"),
        ),
        (
            broken(&|tree| tree.put("pool/b.deb", "longer than before")),
            format!("{packages}pool/b.deb, which has 18 bytes instead of 9"),
        ),
        (
            broken(&|tree| tree.put("pool/a.deb", "package x")),
            format!("{packages}pool/a.deb, which has another SHA-256"),
        ),
        (
            broken(&|tree| _ = tree.files.remove("pool/s.dsc")),
            "\n  dists/stable/main/source/Sources: names pool/s.dsc, which is missing".to_owned(),
        ),
        (
            broken(&|tree| tree.put(&format!("{BINARY}/Packages.bz2"), "x")),
            format!(
                "{0}Packages.bz2, which has 1 bytes instead of {2}{1}Packages.bz2, which has 1 bytes instead of {2}",
                both[0],
                both[1],
                good.files[&format!("{BINARY}/Packages.bz2")].len()
            ),
        ),
        (
            broken(&|tree| {
                tree.files.remove(&format!("{BINARY}/Packages.bz2"));
                tree.files.remove(&format!("{BINARY}/Packages.gz"));
            }),
            "\n  dists/stable/InRelease: names dists/stable/main/binary-amd64/Packages, in no form, which is missing\
             \n  dists/stable/Release: names dists/stable/main/binary-amd64/Packages, in no form, which is missing"
                .to_owned(),
        ),
        (
            broken(&|tree| tree.put("dists/stable/Release", "<html>")),
            "\n  dists/stable/Release: line 1: it is no field".to_owned(),
        ),
    ] {
        assert_eq!(said, is);
    }
    // One form is enough, and an architecture may be left out whole.
    let one_form = |tree: &mut Memory| _ = tree.files.remove(&format!("{BINARY}/Packages.gz"));
    assert_eq!(broken(&one_form), "");
    assert_eq!(
        broken(&|tree| tree.files.retain(|path, _| !path.starts_with(BINARY))),
        ""
    );
}

#[test]
fn stanzas_and_lists_that_make_no_sense_are_named() {
    for (packages, word) in [
        ("Package: x\nSize: 1\n", "the package at line 1 has no Filename"),
        ("Package: x\nFilename: pool/a.deb\nSize: many\n", "has no Size"),
        ("no field\n", "line 1: it is no field"),
    ] {
        let mut tree = debian_tree();
        tree.put(&format!("{BINARY}/Packages.gz"), gzip(packages));
        tree.files.remove(&format!("{BINARY}/Packages.bz2"));
        tree.put(&format!("{BINARY}/Packages.bz2"), gzip(packages));
        sign(&mut tree);
        let said = tree.problems();
        assert!(
            said.contains(&format!("Packages.gz: {word}")) || said.contains(word),
            "{said}"
        );
        assert_eq!(
            tree.check().problems.count(),
            1,
            "Release and InRelease list the same: {said}"
        );
    }
    let mut tree = debian_tree();
    tree.put("dists/stable/Release", "SHA256:\n abc\n");
    assert!(
        tree.problems()
            .contains("dists/stable/Release: 'abc' is no hash, size and name")
    );
    tree.put(&format!("{BINARY}/Packages.gz"), b"\x1f\x8b broken");
    sign(&mut tree);
    assert!(tree.problems().contains("Packages.gz: line 1"), "{}", tree.problems());
}

#[test]
fn flat_repositories_are_checked_from_where_their_names_begin() {
    let mut tree = Memory::default();
    tree.put("debs/flat/a.deb", "a");
    tree.put("other/Release", "1.0, of something else");
    tree.put("other/Release", "notes: none\n");
    for (base, name) in [
        ("debs/flat/", "a.deb"),
        ("debs/", "flat/a.deb"),
        ("debs/flat/", "./a.deb"),
    ] {
        let packages =
            stanza(&tree, base, name.trim_start_matches("./")).replace("Filename: a.deb", &format!("Filename: {name}"));
        tree.put("debs/flat/Packages", packages);
        let text = release(&tree, "debs/flat/", &["Packages"]);
        tree.put("debs/flat/Release", text);
        assert_eq!(tree.problems(), "", "{name}");
        let mut broken = tree.clone();
        broken.files.remove("debs/flat/a.deb");
        assert_eq!(
            broken.problems(),
            format!("\n  debs/flat/Packages: names {name}, which is missing")
        );
    }
}

#[test]
fn a_list_is_bounded_and_counts_the_rest() {
    let mut tree = Memory::default();
    let names: Vec<String> = (0..50).map(|i| format!("p{i:02}.rpm")).collect();
    names.iter().for_each(|name| tree.put(name, name));
    let packages: Vec<_> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    yum(&mut tree, "", &packages);
    tree.files.retain(|path, _| !path.ends_with(".rpm"));
    let checked = tree.check();
    assert_eq!(
        (checked.problems.listed().len(), checked.problems.count()),
        (PROBLEMS_LISTED_MAX, 50)
    );
    assert!(checked.problems.to_string().ends_with("\n  and 30 more"));
}

#[test]
fn what_cannot_have_become_wrong_is_not_read() {
    for before in [yum_tree(), debian_tree()] {
        let known = before.known();
        let pool = if before.files.contains_key("readme") {
            "os/Packages"
        } else {
            "pool"
        };
        let after = |change: &dyn Fn(&mut Memory)| {
            let mut tree = before.clone();
            change(&mut tree);
            let checked = tree.since(&before, &known);
            assert!(checked.problems.is_empty(), "{}", checked.problems);
            tree.opened.borrow().len()
        };
        assert_eq!(after(&|_| {}), 0);
        assert_eq!(after(&|tree| tree.put("readme", "changed")), 0);
        assert_eq!(after(&|tree| _ = tree.files.remove("project/trace/x")), 0);
        assert_eq!(after(&|tree| tree.put(&format!("{pool}/new"), "not named yet")), 0);
    }
    // What goes that may be named costs one reading of the indices, and no more.
    let mut before = yum_tree();
    before.put("os/Packages/old.rpm", "not named any more");
    let known = before.known();
    let mut after = before.clone();
    after.files.remove("os/Packages/old.rpm");
    assert!(after.since(&before, &known).problems.is_empty());
    assert_eq!(after.opened.borrow().len(), 2, "repomd.xml and primary.xml.gz");
}

#[test]
fn what_is_remembered_is_read_back_or_refused() {
    let known = debian_tree().known();
    let text = known.encode();
    assert!(
        text.contains("index\tdists/stable/main/binary-amd64/Packages.gz\tdirect\t/pool\n"),
        "{text}"
    );
    for cut in 0..text.len() {
        if let Ok(less) = Known::decode(&text[..cut]) {
            assert!(text.as_bytes()[cut - 1] == b'\n' && less.found.len() <= known.found.len());
        }
    }
    for wrong in [
        "",
        "x\n",
        &text.replace("checked 1", "checked 2"),
        &text.replace("\tdirect", "\tx"),
        &format!("{text}index\n"),
    ] {
        assert!(Known::decode(wrong).is_err(), "{wrong}");
    }
}
