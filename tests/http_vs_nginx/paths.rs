//! Paths: every spelling of a name that is there, and of names that must not be reached.

use crate::case::{Case, Explanation, explained};

const FILES: &[(&str, &str)] = &[
    ("file", "/pub/kilo"),
    ("large file", "/pub/large"),
    ("empty file", "/pub/empty"),
    ("file in a directory", "/pub/dir/file"),
    ("file in a deep directory", "/pub/dir/deep/file"),
    ("missing", "/pub/missing"),
    ("missing directory", "/pub/missing/"),
    ("missing in a directory", "/pub/dir/missing"),
    ("below a file", "/pub/kilo/below"),
    ("file with a slash behind", "/pub/kilo/"),
    ("directory without a slash", "/pub/dir"),
    ("directory without a slash, with query", "/pub/dir?a=b"),
    ("deep directory without a slash", "/pub/dir/deep"),
    ("directory with blanks without a slash", "/pub/with%20space"),
    ("directory with an index", "/pub/indexed/"),
    ("directory with an index, without a slash", "/pub/indexed"),
    ("index by its name", "/pub/indexed/index.html"),
    ("query behind a file", "/pub/kilo?a=b"),
    ("empty query", "/pub/kilo?"),
    ("query with a path in it", "/pub/kilo?/../one"),
    ("case, lower", "/pub/case"),
    ("case, upper", "/pub/CASE"),
    ("case, mixed", "/pub/Case"),
    ("link to a file", "/pub/link"),
    ("link to a directory", "/pub/dirlink/file"),
    ("link to a directory without a slash", "/pub/dirlink"),
    ("link to nothing", "/pub/dangling"),
    ("link in a loop", "/pub/loop"),
    ("link out of the tree", "/pub/dir/escape"),
    ("beside the tree", "/outside"),
    ("blank", "/pub/with%20space/a%20file"),
    ("plus sign is no blank", "/pub/with+space/a+file"),
    ("plus sign", "/pub/a+b/plus+plus"),
    ("plus sign, encoded", "/pub/a%2Bb/plus%2bplus"),
    ("percent", "/pub/100%25"),
    ("name with an escape in it", "/pub/a%2520b"),
    ("name with an escape in it, decoded once too often", "/pub/a%20b"),
    ("name of escaped dots", "/pub/%252e%252e"),
    ("accents", "/pub/%C3%BCn%C3%AFc%C3%B6de"),
    ("accents, lower case escapes", "/pub/%c3%bcn%c3%afc%c3%b6de"),
    ("accents, not encoded", "/pub/\u{fc}n\u{ef}c\u{f6}de"),
    ("hash", "/pub/hash%23tag"),
    ("question mark", "/pub/what%3F"),
    ("semicolon", "/pub/semi;colon"),
    ("semicolon, encoded", "/pub/semi%3Bcolon"),
    ("semicolon behind a name", "/pub/kilo;x=y"),
    ("backslash", "/pub/back\\slash"),
    ("backslash, encoded", "/pub/back%5Cslash"),
    ("quote", "/pub/quote%22quote"),
    ("quote, not encoded", "/pub/quote\"quote"),
    ("tilde", "/pub/~tilde"),
    ("tilde, encoded", "/pub/%7Etilde"),
    ("hidden file", "/pub/.hidden"),
    ("three dots", "/pub/..."),
    ("letters, encoded", "/pub/%6b%69%6c%6f"),
    ("everything encoded", "/%70%75%62%2f%6b%69%6c%6f"),
    ("MIME by suffix", "/pub/page.html"),
    ("two suffixes", "/pub/archive.tar.gz"),
];

const HOSTILE: &[(&str, &str)] = &[
    ("dot", "/pub/./kilo"),
    ("dot at the end", "/pub/dir/."),
    ("dots inside the tree", "/pub/dir/../kilo"),
    ("dots at the end", "/pub/dir/.."),
    ("dots out of the tree", "/pub/../outside"),
    ("dots out of the root", "/../etc/passwd"),
    ("dots far out of the root", "/../../../../../../etc/passwd"),
    ("dots through a tree", "/pub/../../etc/passwd"),
    ("dots and back", "/pub/../pub/kilo"),
    ("dots below a file", "/pub/kilo/../one"),
    ("dots below nothing", "/pub/missing/../kilo"),
    ("encoded dots", "/pub/%2e%2e/outside"),
    ("encoded dots in upper case", "/pub/%2E%2E/outside"),
    ("half encoded dots", "/pub/.%2e/outside"),
    ("encoded dot", "/pub/%2e/kilo"),
    ("encoded dots out of the root", "/%2e%2e/%2e%2e/etc/passwd"),
    ("twice encoded dots", "/pub/%252e%252e/outside"),
    ("overlong dots", "/pub/%c0%ae%c0%ae/outside"),
    ("overlong slash", "/pub/..%c0%afoutside"),
    ("full width dots", "/pub/%EF%BC%8E%EF%BC%8E/outside"),
    ("encoded slash", "/pub%2fkilo"),
    ("encoded slash in upper case", "/pub%2Fkilo"),
    ("encoded slash before a directory", "/pub%2fdir"),
    ("encoded slash to a directory", "/pub%2fdir/"),
    ("encoded slash at the end", "/pub/dir%2f"),
    ("two encoded slashes", "/pub%2f%2fkilo"),
    ("encoded slash, encoded again", "/pub%252fkilo"),
    ("encoded slash to what is missing", "/pub%2fmissing"),
    ("encoded slash behind dots", "/pub/..%2foutside"),
    ("encoded slashes out of the root", "/..%2f..%2fetc%2fpasswd"),
    ("backslash dots", "/pub/..\\outside"),
    ("encoded backslash dots", "/pub/..%5coutside"),
    ("dots with a parameter", "/pub/..;/outside"),
    ("two slashes", "/pub//kilo"),
    ("two slashes at the beginning", "//pub/kilo"),
    ("two slashes and a host", "//evil.example/"),
    ("two slashes and a host, directory", "//evil.example/.."),
    ("many slashes", "/pub////////kilo"),
    ("slashes at the end", "/pub/dir//"),
    ("backslash and a host", "/\\evil.example/"),
    ("NUL", "/pub/kilo%00"),
    ("NUL before a suffix", "/pub/kilo%00.html"),
    ("line feed", "/pub/kilo%0a"),
    ("line break and a field", "/pub/dir%0d%0aSet-Cookie:%20x"),
    ("line break in a redirect", "/pub/dir%0d%0a"),
    ("tab", "/pub/kilo%09"),
    ("DEL", "/pub/kilo%7f"),
    ("not UTF-8", "/pub/%ff%fe"),
    ("half a surrogate", "/pub/%ed%a0%80"),
    ("lone percent", "/pub/100%"),
    ("one digit", "/pub/100%2"),
    ("no digits", "/pub/%zz"),
    ("one good digit", "/pub/%2z"),
    ("sign for a digit", "/pub/%+1"),
    ("percent u", "/pub/%u002e%u002e/outside"),
    ("twice percent", "/pub/%%32%65"),
    ("blank at the end", "/pub/kilo%20"),
    ("dot behind a name", "/pub/kilo."),
    ("stream of another system", "/pub/kilo::$DATA"),
    ("device of another system", "/pub/CON"),
    ("device as a directory", "/dev/zero"),
    ("process files", "/proc/self/environ"),
    ("name of 255 bytes", NAME_255),
];

const NAME_255: &str = "/pub/nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn";

/// Pages that each server writes in its own way: only that they are there is compared.
const PAGES: &[(&str, &str)] = &[
    ("root", "/"),
    ("tree", "/pub/"),
    ("directory", "/pub/dir/"),
    ("deep directory", "/pub/dir/deep/"),
    ("directory with blanks", "/pub/with%20space/"),
    ("sorted directory", "/pub/dir/?C=M&O=D"),
    ("link to a directory", "/pub/dirlink/"),
];

pub(crate) fn cases() -> Vec<Case> {
    explained(table(), EXPLAINED)
}

fn table() -> Vec<Case> {
    let path = |kind: &str, name: &str, target: &str| Case::get(format!("{kind}: {name}"), target, "");
    let files = FILES.iter().map(|(name, target)| path("path", name, target));
    let hostile = HOSTILE.iter().map(|(name, target)| path("hostile", name, target));
    let pages = PAGES.iter().map(|(name, target)| path("page", name, target).page());
    let long = [300, 5_000].map(|size| {
        path(
            "path",
            &format!("name of {size} bytes"),
            &format!("/pub/{}", "n".repeat(size)),
        )
    });
    let deep = path("path", "deeper than any tree", &"/d".repeat(1_000));
    files.chain(hostile).chain(pages).chain(long).chain([deep]).collect()
}

/// Where we differ from nginx, and why.
const EXPLAINED: &[Explanation] = &[
    (
        "4xx kept",
        "the path is refused, not the framing: what follows is a request; nginx closes behind every 400",
        &[
            "hostile: NUL before a suffix",
            "hostile: NUL",
            "hostile: dots far out of the root",
            "hostile: dots out of the root",
            "hostile: dots through a tree",
            "hostile: encoded dots out of the root",
            "hostile: encoded slashes out of the root",
            "hostile: lone percent",
            "hostile: no digits",
            "hostile: one digit",
            "hostile: one good digit",
            "hostile: percent u",
            "hostile: sign for a digit",
            "hostile: twice percent",
        ],
    ),
    (
        "4xx kept",
        "dots are refused and never resolved, so that no path has two spellings",
        &[
            "hostile: dots and back",
            "hostile: dots at the end",
            "hostile: dots below a file",
            "hostile: dots below nothing",
            "hostile: dots inside the tree",
            "hostile: dots out of the tree",
            "hostile: encoded dot",
            "hostile: encoded dots in upper case",
            "hostile: encoded dots",
            "hostile: half encoded dots",
            "hostile: two slashes and a host, directory",
        ],
    ),
    (
        "4xx kept",
        "what an encoded slash parts is taken as if it were parted by a plain one: no dots, no empty names",
        &[
            "hostile: encoded slash at the end",
            "hostile: encoded slash behind dots",
            "hostile: two encoded slashes",
        ],
    ),
    (
        "301 kept",
        "a directory has one URL, so that the links of its page lead where they should",
        &["hostile: encoded slash to a directory"],
    ),
    (
        "4xx kept",
        "two slashes at the beginning look like a host to some clients: refused, not repaired",
        &["hostile: two slashes at the beginning"],
    ),
    (
        "301 kept",
        "a client is told the one spelling of a directory, for the links of its page; nginx serves it under several",
        &["hostile: dot at the end", "hostile: slashes at the end"],
    ),
    (
        "404 kept",
        "nothing is served from outside of what was published",
        &["path: beside the tree", "path: link out of the tree"],
    ),
];
