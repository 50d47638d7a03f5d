//! A directory listing of a real node, in a real browser.

use instantmirror_testkit::browser::Browser;
use instantmirror_testkit::process::TestDir;
use instantmirror_testkit::tree::noise;

use crate::world::{LIMIT, Master, Node};

/// Files of the listing, none of a size that another has.
const FILES: [(&str, usize); 4] = [
    ("middle.deb", 5_000),
    ("largest.iso", 90_000),
    ("small.txt", 70),
    ("<b>&bold", 700),
];

/// Window of the pictures.
const SIZE: (u32, u32) = (1000, 700);

fn world(dir: &TestDir) -> (Master, Node) {
    let source = dir.folder("source").unwrap();
    for (name, size) in FILES {
        std::fs::write(source.join(name), noise(size)).unwrap();
    }
    std::fs::create_dir(source.join("folder")).unwrap();
    std::fs::write(source.join("folder/inside"), "inside").unwrap();
    let mut master = Master::new(dir, &[("pages", &source)]);
    let snapshot = master.publish("pages");
    master.serve();
    let node = Node::start(dir, &master, &["pages"]);
    node.wait_for("pages", &snapshot);
    (master, node)
}

/// The names of a listing in the order of its rows, as the browser understood them.
fn names(document: &str) -> Vec<String> {
    let rows = document.split("<tr>").skip(1).filter(|row| !row.contains("../"));
    let links = rows.filter_map(|row| row.split("<a ").nth(1)?.split('>').nth(1)?.strip_suffix("</a"));
    links
        .map(|name| name.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
        .collect()
}

#[test]
fn a_browser_shows_a_listing_and_sorts_it() {
    let dir = TestDir::new("e2e-browser").unwrap();
    let (_master, node) = world(&dir);
    let browser = Browser::new(&dir.folder("browser").unwrap());
    let url = format!("{}/pub/pages/", node.url());

    let document = browser.document(&url, LIMIT).unwrap();
    assert_eq!(
        names(&document),
        ["<b>&bold", "folder/", "largest.iso", "middle.deb", "small.txt"]
    );
    assert!(!document.contains("<b>"), "a name became markup:\n{document}");

    // What a click on "Size" sends, twice.
    assert!(
        document.contains("name=\"C\" value=\"S\""),
        "no way to sort by size:\n{document}"
    );
    let falling = browser.document(&format!("{url}?C=S&O=D"), LIMIT).unwrap();
    let files =
        |document: &str| -> Vec<String> { names(document).into_iter().filter(|name| name != "folder/").collect() };
    assert_eq!(files(&falling), ["largest.iso", "middle.deb", "<b>&bold", "small.txt"]);
    let rising = browser.document(&format!("{url}?O=A&C=S"), LIMIT).unwrap();
    assert_eq!(files(&rising), ["small.txt", "<b>&bold", "middle.deb", "largest.iso"]);
}

#[test]
fn a_listing_is_something_to_look_at() {
    let dir = TestDir::new("e2e-picture").unwrap();
    let (_master, node) = world(&dir);
    let browser = Browser::new(&dir.folder("browser").unwrap());
    let (width, height) = SIZE;
    let empty = browser.picture("about:blank", width, height, LIMIT).unwrap();
    let listing = browser
        .picture(&format!("{}/pub/pages/", node.url()), width, height, LIMIT)
        .unwrap();
    assert_eq!((listing.width, listing.height), SIZE);
    // A blank page compresses to next to nothing, five rows of text do not.
    assert!(
        listing.png.len() > 3 * empty.png.len(),
        "{} bytes, an empty page has {}",
        listing.png.len(),
        empty.png.len()
    );
}
