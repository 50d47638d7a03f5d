//! The files of the repository as the checks see them.
//!
//! Takes what git tracks plus what it would track (new files that nobody ignores), so a fault is found before the
//! commit. Never looks into ignored folders such as `target`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use proc_macro2::{LineColumn, TokenStream, TokenTree};

use crate::steps::output;

/// A work tree with its text files in memory.
pub(crate) struct Repository {
    root: PathBuf,
    files: Vec<SourceFile>,
}

/// One text file.
pub(crate) struct SourceFile {
    /// Relative to the root, with `/` between the parts.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Repository {
    /// Reads every text file; files that are not UTF-8 or hold a NUL are data and none of tidy's business.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let mut git = Command::new("git");
        git.current_dir(root).args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "--deduplicate",
        ]);
        let listing = output(&mut git).context("tidy needs git to know which files belong to the repository")?;
        let mut files = Vec::new();
        for path in listing.split_terminator('\0') {
            let absolute = root.join(path);
            if !absolute.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
                continue; // A symlink, or tracked and deleted in the work tree.
            }
            let bytes = std::fs::read(&absolute).with_context(|| format!("cannot read {path}"))?;
            if let Some(text) = text_of(bytes).filter(|_| !path.starts_with(DATA)) {
                files.push(SourceFile {
                    path: path.to_owned(),
                    text,
                });
            }
        }
        Ok(Self {
            root: root.to_path_buf(),
            files,
        })
    }

    /// The folder of the workspace's manifest.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Every text file.
    pub(crate) fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// Every Rust file.
    pub(crate) fn rust_files(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(|file| file.is_rust())
    }

    /// One file by its path.
    pub(crate) fn file(&self, path: &str) -> Option<&SourceFile> {
        self.files.iter().find(|file| file.path == path)
    }
}

impl SourceFile {
    /// Whether this is a Rust source file.
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The syntax tree; the error names file and line.
    pub(crate) fn parse(&self) -> Result<syn::File> {
        syn::parse_file(&self.text).map_err(|error| {
            let LineColumn { line, .. } = error.span().start();
            anyhow::anyhow!("{}:{line}: not Rust: {error}", self.path)
        })
    }

    /// All tokens, comments and white space left out.
    pub(crate) fn tokens(&self) -> Result<TokenStream> {
        let tokens = self.text.parse();
        tokens.map_err(|error| anyhow::anyhow!("{}: not Rust: {error}", self.path))
    }
}

/// Inputs for programs, byte for byte as they are: not written for people, whatever they look like.
const DATA: &str = "fuzz/seeds/";

fn text_of(bytes: Vec<u8>) -> Option<String> {
    if bytes.contains(&0) {
        None
    } else {
        String::from_utf8(bytes).ok()
    }
}

/// Calls `visit` for every token, those inside brackets included.
pub(crate) fn for_each_token(tokens: TokenStream, visit: &mut impl FnMut(&TokenTree)) {
    for token in tokens {
        visit(&token);
        if let TokenTree::Group(group) = token {
            for_each_token(group.stream(), visit);
        }
    }
}

/// Whether an item carries `#[cfg(test)]` or a combination such as `#[cfg(all(test, unix))]`.
pub(crate) fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg"))
        .any(|attribute| {
            let syn::Meta::List(list) = &attribute.meta else {
                return false;
            };
            let words: Vec<String> = list.tokens.to_string().split_whitespace().map(str::to_owned).collect();
            let joined = words.concat();
            joined == "test"
                || joined.starts_with("all(test,")
                || joined.contains(",test,") && joined.starts_with("all(")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_not_text() {
        assert_eq!(text_of(b"a\0b".to_vec()), None);
        assert_eq!(text_of(vec![0xff, 0xfe]), None);
        assert_eq!(text_of("päth".into()).as_deref(), Some("päth"));
    }

    #[test]
    fn test_only_items_are_told_from_the_rest() {
        let attributes = |text: &str| syn::parse_str::<syn::ItemMod>(text).unwrap().attrs;
        assert!(is_test_only(&attributes("#[cfg(test)] mod tests {}")));
        assert!(is_test_only(&attributes("#[cfg(all(test, unix))] mod tests {}")));
        assert!(!is_test_only(&attributes("#[cfg(not(test))] mod product {}")));
        assert!(!is_test_only(&attributes(
            "#[cfg(any(test, feature = \"sim\"))] mod sim {}"
        )));
        assert!(!is_test_only(&attributes("mod product {}")));
    }

    #[test]
    fn nested_tokens_are_visited_and_comments_are_not() {
        let file = SourceFile {
            path: "a.rs".into(),
            text: "fn f() { /* unsafe */ g([h]); } // unsafe".into(),
        };
        let mut seen = Vec::new();
        for_each_token(file.tokens().unwrap(), &mut |token| {
            if let TokenTree::Ident(ident) = token {
                seen.push(ident.to_string());
            }
        });
        assert_eq!(seen, ["fn", "f", "g", "h"]);
    }
}
