//! Check `core-no-io`: the source of `instantmirror-core` names no file, socket, process, thread, clock or runtime.
//!
//! Looks at paths and imports as the compiler parses them, so comments, documentation and strings do not count and a
//! grouped or renamed import does. Tests inside core (`#[cfg(test)]`, `tests.rs`) may read their vectors from files.

use anyhow::Result;
use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use super::source::is_test_only;
use super::{Finding, Repository, SourceFile};

const CORE_SOURCE: &str = "instantmirror-core/src/";

/// Paths that must not occur, whole or as a part of a longer path.
const FORBIDDEN: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net",
    "std::os::linux",
    "std::os::unix::fs",
    "std::os::unix::net",
    "std::os::unix::process",
    "std::process",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::thread::Builder",
    "std::thread::sleep",
    "std::thread::spawn",
    "thread::Builder",
    "thread::sleep",
    "thread::spawn",
    "File::create",
    "File::open",
    "File::options",
    "Instant::now",
    "OpenOptions",
    "SystemTime::now",
    "TcpListener",
    "TcpStream",
    "Timestamp::now",
    "UdpSocket",
    "UnixListener",
    "UnixStream",
    "Utc::now",
    "Zoned::now",
    "async_std",
    "hyper",
    "libc",
    "mio",
    "nix",
    "reqwest",
    "rustix",
    "smol",
    "socket2",
    "tokio",
];

/// Reports every forbidden path in core.
pub(crate) fn check(repository: &Repository) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let files = repository
        .rust_files()
        .filter(|file| file.path.starts_with(CORE_SOURCE));
    for file in files.filter(|file| !is_test_file(&file.path)) {
        findings.extend(judge(file)?);
    }
    Ok(findings)
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

fn judge(file: &SourceFile) -> Result<Vec<Finding>> {
    let mut paths = Paths::default();
    paths.visit_file(&file.parse()?);
    let findings = paths.found.iter().filter_map(|(line, path)| {
        let rule = forbidden_by(path)?;
        Some(Finding::error(
            &file.path,
            *line,
            format!("`{}` reaches for `{rule}`", path.join("::")),
        ))
    });
    Ok(findings.collect())
}

/// The rule that a path breaks: one whose segments stand in it side by side.
fn forbidden_by(path: &[String]) -> Option<&'static str> {
    let is_std_glob = path.first().is_some_and(|first| first == "std") && path.get(1).is_some_and(|name| name == "*");
    if is_std_glob {
        return Some("everything in std");
    }
    FORBIDDEN.iter().copied().find(|rule| {
        let rule: Vec<&str> = rule.split("::").collect();
        path.windows(rule.len())
            .any(|window| window.iter().zip(&rule).all(|(have, bad)| have == bad))
    })
}

/// Collects every path of a file with its line.
#[derive(Default)]
struct Paths {
    found: Vec<(usize, Vec<String>)>,
}

impl Paths {
    fn use_tree(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let mut path = prefix.to_vec();
        let line = tree.span().start().line;
        match tree {
            syn::UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.use_tree(&path, &part.tree);
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.use_tree(&path, tree)),
            syn::UseTree::Name(name) => {
                // `use std::fs::{self}` imports `std::fs`.
                if name.ident != "self" {
                    path.push(name.ident.to_string());
                }
                self.found.push((line, path));
            }
            syn::UseTree::Rename(name) => {
                path.push(name.ident.to_string());
                if path == ["std"] {
                    path.push("*".to_owned());
                }
                self.found.push((line, path));
            }
            syn::UseTree::Glob(_) => {
                path.push("*".to_owned());
                self.found.push((line, path));
            }
        }
    }

    /// Paths inside a macro call, which syn leaves as tokens.
    fn macro_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut line = 0;
        let mut joined = false;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if !joined {
                        self.flush(line, &mut path);
                        line = ident.span().start().line;
                    }
                    path.push(ident.to_string());
                    joined = false;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => joined = true,
                TokenTree::Group(group) => {
                    self.flush(line, &mut path);
                    joined = false;
                    self.macro_tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.flush(line, &mut path);
                    joined = false;
                }
            }
        }
        self.flush(line, &mut path);
    }

    fn flush(&mut self, line: usize, path: &mut Vec<String>) {
        if !path.is_empty() {
            self.found.push((line, std::mem::take(path)));
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test_only(&item.attrs) {
            self.use_tree(&[], &item.tree);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.found
            .push((item.span().start().line, vec![item.ident.to_string()]));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.found.push((path.span().start().line, segments));
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.macro_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn rules(text: &str) -> Vec<String> {
        let file = SourceFile {
            path: "instantmirror-core/src/a.rs".into(),
            text: text.into(),
        };
        judge(&file)
            .unwrap()
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    }

    #[test]
    fn plain_code_and_descriptors_pass() {
        let text = "//! Never uses std::fs or tokio.\n\
                    use std::os::fd::BorrowedFd;\n\
                    use std::time::{Duration, Instant};\n\
                    /// Not std::net.\n\
                    pub enum Kind { File, Directory }\n\
                    fn f(kind: Kind, at: Instant, fd: BorrowedFd<'_>) -> bool { matches!(kind, Kind::File) }\n\
                    const TEXT: &str = \"std::fs::read\";\n";
        assert_eq!(rules(text), Vec::<String>::new());
    }

    #[test]
    fn imports_are_seen_in_every_form() {
        for text in [
            "use std::fs;",
            "use std::{io, fs::File};",
            "use std::{fs::{self, Metadata}};",
            "use std::net::*;",
            "use std::fs as quiet;",
            "use std::*;",
            "use std as alias;",
            "use tokio::sync::Mutex;",
            "use std::thread::spawn;",
            "extern crate tokio;",
        ] {
            assert!(!rules(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn calls_and_types_are_seen() {
        for text in [
            "fn f() -> std::time::Instant { std::time::Instant::now() }",
            "use std::time::SystemTime; fn f() { SystemTime::now(); }",
            "fn f(file: &std::fs::File) {}",
            "fn f() { log!(\"{}\", std::env::var(\"HOME\")); }",
            "macro_rules! m { () => { std::thread::spawn(|| ()) } }",
            "fn f() { jiff::Timestamp::now(); }",
        ] {
            assert!(!rules(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn tests_inside_core_are_free() {
        assert!(rules("#[cfg(test)] mod tests { use std::fs; fn f() { std::thread::spawn(|| ()); } }").is_empty());
        assert!(is_test_file("instantmirror-core/src/catalog/tests.rs"));
        assert!(!is_test_file("instantmirror-core/src/catalog/node.rs"));
    }
}
