//! Listings of directories in memory.

use instantmirror_core::FileMeta;
use instantmirror_core::catalog::{Resolution, build_directory};
use instantmirror_core::memory::MemoryStore;

use super::sorted::SortedBudget;
use super::*;

const HOSTILE: [&str; 12] = [
    "<script>alert(1)",
    "a\"onmouseover=\"x",
    "it's",
    "100%",
    "#fragment",
    "?query=1&b=2",
    "http:evil",
    "back\\slash",
    " spaces ",
    "päth €",
    "%2e%2e",
    "&amp;",
];

fn file(name: &str, size: u64, mtime: i64) -> Entry {
    let file = FileMeta {
        size,
        object: ObjectId::of(name.as_bytes()),
        first_piece: 0,
        link_group: None,
    };
    let kind = Kind::File(file);
    let meta = Meta {
        mode: 0o644,
        mtime,
        kind,
    };
    Entry {
        name: Name::new(name).unwrap(),
        meta,
    }
}

fn page(mut entries: Vec<Entry>, format: Format, query: &str) -> (String, usize) {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let store = Arc::new(MemoryStore::new());
    let directory = build_directory(&entries, &mut |node| store.insert_node(node)).unwrap();
    let subject = Subject {
        path: RepoPath::new("pub/<x>").unwrap(),
        snapshot: None,
        torrents: Vec::new(),
    };
    let order = Order::from_query(query);
    let mut listing = Listing::of_directory(subject, format, order, directory, Nodes(store), None);
    let (mut text, mut pieces) = (String::new(), 0);
    while let Some(piece) = listing.next_piece(16 * 1024).unwrap() {
        text.push_str(std::str::from_utf8(&piece).unwrap());
        pieces += 1;
    }
    (text, pieces)
}

fn names_in(json: &str) -> Vec<String> {
    let page: serde_json::Value = serde_json::from_str(json).unwrap();
    let entries = page["entries"].as_array().unwrap();
    let name = |entry: &serde_json::Value| entry["name"].as_str().unwrap().to_owned();
    entries.iter().map(name).collect()
}

#[test]
fn hostile_names_neither_run_nor_lead_elsewhere() {
    let entries: Vec<Entry> = HOSTILE.iter().map(|name| file(name, 1, 0)).collect();
    let (html, _) = page(entries.clone(), Format::Html, "");
    assert!(!html.contains("<script") && !html.contains("<x>") && !html.contains("\"onmouseover"));
    for name in HOSTILE {
        let href = format!("<a href=\"{}\">", crate::message::request::encode_path(name));
        assert!(html.contains(&href), "{href}");
        let raw = format!("/pub/{}", crate::message::request::encode_path(name));
        let decoded = crate::message::request::decode_path(&raw).unwrap();
        assert_eq!(decoded.path.as_str(), format!("pub/{name}"));
    }
    let (json, _) = page(entries, Format::Json, "");
    let mut sorted = HOSTILE.map(str::to_owned).to_vec();
    sorted.sort();
    assert_eq!(names_in(&json), sorted);
}

#[test]
fn sorts_by_every_column_both_ways() {
    let entries = || vec![file("a.deb", 3, 20), file("b.xml", 1, 30), file("c.iso", 2, 10)];
    for (query, expected) in [
        ("", "abc"),
        ("C=N&O=A", "abc"),
        ("C=N&O=D", "cba"),
        ("C=N;O=D", "cba"),
        ("C=S&O=A", "bca"),
        ("C=S&O=D", "acb"),
        ("C=M", "cab"),
        ("C=M&O=D", "bac"),
        ("C=T", "acb"),
        ("C=%3Cscript%3E&O=x", "abc"),
    ] {
        let (json, _) = page(entries(), Format::Json, query);
        let initials: String = names_in(&json).iter().map(|name| &name[..1]).collect();
        assert_eq!(initials, expected, "{query}");
    }
}

#[test]
fn large_directories_come_in_pieces_and_are_sorted_up_to_the_limit() {
    let entries = |n: usize| (0..n).map(|i| file(&format!("f{i:06}"), (n - i) as u64, 0)).collect();
    let (json, pieces) = page(entries(2000), Format::Json, "");
    assert_eq!(names_in(&json).len(), 2000);
    assert!((8..20).contains(&pieces), "{pieces}");
    let (json, _) = page(entries(SORT_ENTRIES_MAX), Format::Json, "C=S");
    assert_eq!(names_in(&json)[0], format!("f{:06}", SORT_ENTRIES_MAX - 1));
    let (json, _) = page(entries(SORT_ENTRIES_MAX + 1), Format::Json, "C=S");
    assert_eq!(names_in(&json)[0], "f000000");
    let (html, _) = page(entries(SORT_ENTRIES_MAX + 1), Format::Html, "C=S");
    assert!(html.contains("shown in order of name"));
}

#[test]
fn an_empty_directory_is_a_whole_page() {
    let (json, _) = page(Vec::new(), Format::Json, "");
    assert!(names_in(&json).is_empty());
    let (html, _) = page(Vec::new(), Format::Html, "");
    assert!(html.starts_with("<!DOCTYPE html>") && html.trim_end().ends_with("</html>"));
    assert!(html.contains("href=\"../\""));
}

#[test]
fn a_missing_node_is_an_error_not_a_short_page() {
    let store = Arc::new(MemoryStore::new());
    let directory = Directory {
        node: instantmirror_core::NodeId::of(b"?"),
        files: 0,
        bytes: 0,
    };
    let subject = Subject {
        path: RepoPath::ROOT,
        snapshot: None,
        torrents: Vec::new(),
    };
    let order = Order::from_query("");
    let mut listing = Listing::of_directory(subject, Format::Html, order, directory, Nodes(store), None);
    assert!(listing.next_piece(1).is_err());
}

fn link(name: &str, target: &str) -> Entry {
    let meta = Meta {
        mode: 0o777,
        mtime: 0,
        kind: Kind::Symlink(target.into()),
    };
    Entry {
        name: Name::new(name).unwrap(),
        meta,
    }
}

/// Chains shorter and longer than what is followed, circles, and links out of the directory: as each would be by itself.
#[test]
fn links_lead_where_each_leads_by_itself() {
    let store = Arc::new(MemoryStore::new());
    let mut entries = vec![file("file", 7, 0), file("other", 8, 0)];
    for (prefix, end, length) in [
        ("a", "file", 300),
        ("b", "nothing", 50),
        ("c", "c000", 200),
        ("d", "../dir/other", 90),
        ("e", "..", 45),
        ("f", "a000", 3),
        ("g", "a270", 30),
        ("h", "./file", 2),
        ("i", "/file", 2),
    ] {
        for at in 0..length {
            let next = format!("{prefix}{:03}", at + 1);
            let target = if at + 1 == length { end } else { &next };
            entries.push(link(&format!("{prefix}{at:03}"), target));
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let inner = build_directory(&entries, &mut |node| store.insert_node(node)).unwrap();
    let directory = |kind| Meta {
        mode: 0o755,
        mtime: 0,
        kind,
    };
    let top = [
        Entry {
            name: Name::new("dir").unwrap(),
            meta: directory(Kind::Directory(inner)),
        },
        link("way", "dir"),
    ];
    let top = build_directory(&top, &mut |node| store.insert_node(node)).unwrap();
    let root = directory(Kind::Directory(top));
    let nodes = Nodes(store.clone());
    let mut followed = 0;
    for path in ["dir", "way"] {
        let path = RepoPath::new(path).unwrap();
        let links = Links::new(root.clone(), path.clone());
        let mut ends = links.ends(&nodes).unwrap();
        // The other way round too, so that they are known in another order.
        for entry in entries.iter().chain(entries.iter().rev()) {
            let Kind::Symlink(target) = &entry.meta.kind else {
                continue;
            };
            let catalog = Catalog::new(Arc::clone(&nodes.0), root.clone());
            let alone = match catalog.resolve(&path.join(&entry.name).unwrap()).unwrap() {
                Resolution::Found(
                    _,
                    Meta {
                        kind: Kind::File(file), ..
                    },
                ) => LinkEnd::File(file.size),
                Resolution::Found(..) => LinkEnd::Directory,
                _ => LinkEnd::Nowhere,
            };
            followed += usize::from(alone != LinkEnd::Nowhere);
            assert_eq!(ends.end(&entry.name, target).unwrap(), alone, "{path} {}", entry.name);
        }
    }
    assert!(followed > 400, "{followed}");
}

#[test]
fn sorted_pages_that_wait_are_bounded() {
    static BUDGET: SortedBudget = SortedBudget::new(1000);
    let (mut first, mut second) = (SortedShare::of(&BUDGET), SortedShare::of(&BUDGET));
    assert!((0..950).all(|_| first.grow()));
    assert!(!second.grow());
    drop(first);
    assert_eq!((0..).take_while(|_| second.grow()).count(), 1000);
}
