//! Check `module-layers`: which module of the HTTP crate may use which.
//!
//! A crate whose modules use each other in a circle can only be read as a whole. The arrows are taken from the
//! paths that begin with `crate::`, wherever they stand, tests included; the order of the layers is written
//! down here. A module uses modules of lower layers and itself, and nothing else.

use std::collections::BTreeSet;

use anyhow::Result;
use proc_macro2::{TokenStream, TokenTree};

use super::{Finding, Repository};

/// Where the crate lies.
const SOURCES: &str = "instantmirror-http/src/";

/// The modules at the top of the crate, the lowest layer first. Modules of one layer do not know each other.
const LAYERS: &[&[&str]] = &[
    &["limits", "observe"],
    &["message"],
    &["admission", "proxies", "body"],
    &["view"],
    &["routes"],
    &["api"],
    &["service"],
    &["connection"],
    &["h1", "h2"],
    &["server", "fuzzing"],
];

/// One `crate::module` in one file.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Arrow {
    line: usize,
    to: String,
}

/// Reports every arrow that points upwards or to the side, and every module without a layer.
pub(crate) fn check(repository: &Repository) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in repository.rust_files() {
        // The root of the crate shows what its modules hold, so it knows all of them.
        let Some(from) = file.path.strip_prefix(SOURCES).filter(|path| *path != "lib.rs") else {
            continue;
        };
        findings.extend(judge(&file.path, module(from), &arrows(file.tokens()?)));
    }
    Ok(findings)
}

/// The module at the top of the crate that a file belongs to.
fn module(path: &str) -> &str {
    path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

fn judge(place: &str, from: &str, arrows: &BTreeSet<Arrow>) -> Vec<Finding> {
    let no_layer = |module: &str, line: usize| {
        let text = format!("module `{module}` without a layer; give it one in xtask/src/tidy/layers.rs");
        Finding::error(place, line, text)
    };
    let Some(own) = layer(from) else {
        return vec![no_layer(from, 0)];
    };
    let wrong = arrows.iter().filter(|arrow| arrow.to != from).filter_map(|arrow| {
        let Some(other) = layer(&arrow.to) else {
            return Some(no_layer(&arrow.to, arrow.line));
        };
        let text = format!("`{from}` must not use `crate::{}`, which is not below it", arrow.to);
        (other >= own).then(|| Finding::error(place, arrow.line, text))
    });
    wrong.collect()
}

/// Every `crate::name` and every name of `crate::{name, …}` in some tokens.
fn arrows(tokens: TokenStream) -> BTreeSet<Arrow> {
    let mut found = BTreeSet::new();
    collect(tokens, &mut found);
    found
}

fn collect(tokens: TokenStream, found: &mut BTreeSet<Arrow>) {
    // How much of `crate::` stands directly before this token.
    let mut matched = 0;
    for token in tokens {
        match (&token, matched) {
            (TokenTree::Ident(ident), 3) => note(found, ident),
            (TokenTree::Group(group), 3) => first_names(group.stream(), found),
            (TokenTree::Group(group), _) => collect(group.stream(), found),
            _ => {}
        }
        matched = match (&token, matched) {
            (TokenTree::Ident(ident), _) if ident == "crate" => 1,
            (TokenTree::Punct(punct), 1 | 2) if punct.as_char() == ':' => matched + 1,
            _ => 0,
        };
    }
}

/// The first name of each path of a list such as `{a::b, c}`.
fn first_names(tokens: TokenStream, found: &mut BTreeSet<Arrow>) {
    let mut is_first = true;
    for token in tokens {
        if let (TokenTree::Ident(ident), true) = (&token, is_first) {
            note(found, ident);
        }
        is_first = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ',');
    }
}

fn note(found: &mut BTreeSet<Arrow>, ident: &proc_macro2::Ident) {
    found.insert(Arrow {
        line: ident.span().start().line,
        to: ident.to_string(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn findings(path: &str, text: &str) -> Vec<String> {
        let found = judge(path, module(path), &arrows(text.parse().unwrap()));
        found.iter().map(Finding::to_string).collect()
    }

    #[test]
    fn arrows_that_point_down_are_allowed() {
        let text = "use crate::body::Answer;\nuse crate::view::{open, respond::Body};\nfn f() { crate::api::error() }";
        assert_eq!(findings("service.rs", text), Vec::<String>::new());
        assert_eq!(
            findings("h1/head.rs", "use crate::h1::socket::Socket;"),
            Vec::<String>::new()
        );
        // Only macros and visibilities name no module.
        assert_eq!(findings("body/mod.rs", "pub(crate) fn f() {}"), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_against_the_stream_is_reported_with_its_line() {
        let text = "use crate::message::COMMON;\n\nuse crate::service::Service;";
        assert_eq!(
            findings("view/hot.rs", text),
            ["error: view/hot.rs:3: `view` must not use `crate::service`, which is not below it"]
        );
        assert_eq!(
            findings("h1/mod.rs", "use crate::{limits::Limits, h2};").len(),
            1,
            "to the side"
        );
        let inside = "fn f() { if x { let y = crate::server::open(); } }";
        assert_eq!(findings("h2/mod.rs", inside).len(), 1);
    }

    #[test]
    fn a_new_module_must_get_a_layer() {
        assert!(findings("other.rs", "")[0].contains("without a layer"));
        assert!(findings("server/mod.rs", "use crate::other::X;")[0].contains("without a layer"));
    }
}
