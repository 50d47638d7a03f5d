//! Check `unsafe-listed`: `unsafe` stands only in the files that `xtask/unsafe-allowed.txt` names, and says why it is
//! sound where it stands.
//!
//! Counts every `unsafe` token (blocks, functions, implementations, attributes, macro bodies), never the word in a
//! comment or a lint name. A listed file without `unsafe` is an error too, so the list cannot rot.

use anyhow::{Context as _, Result};
use proc_macro2::TokenTree;

use super::source::for_each_token;
use super::{Finding, Repository, SourceFile};

const LIST: &str = "xtask/unsafe-allowed.txt";

/// How far above an `unsafe` its reason may begin.
const REASON_LINES_ABOVE: usize = 8;

/// What makes a comment a reason: the first for a use, the second for a declaration that puts a duty on its caller.
const REASONS: &[&str] = &["SAFETY:", "# Safety"];

/// Reports `unsafe` outside the list or without a reason.
pub(crate) fn check(repository: &Repository) -> Result<Vec<Finding>> {
    let list = repository.file(LIST).with_context(|| format!("{LIST} is missing"))?;
    let allowed: Vec<&str> = entries(&list.text).collect();
    let mut findings = Vec::new();
    for file in repository.rust_files() {
        findings.extend(judge(file, allowed.contains(&file.path.as_str()))?);
    }
    for path in allowed {
        if repository.file(path).is_none() {
            findings.push(Finding::error(LIST, 0, format!("names `{path}`, which does not exist")));
        }
    }
    Ok(findings)
}

fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn judge(file: &SourceFile, is_allowed: bool) -> Result<Vec<Finding>> {
    let mut lines = Vec::new();
    for_each_token(file.tokens()?, &mut |token| {
        if let TokenTree::Ident(ident) = token
            && ident == "unsafe"
        {
            lines.push(ident.span().start().line);
        }
    });
    if is_allowed && lines.is_empty() {
        return Ok(vec![Finding::error(
            LIST,
            0,
            format!("names `{}`, which holds no unsafe code", file.path),
        )]);
    }
    let text: Vec<&str> = file.text.lines().collect();
    let mut findings = Vec::new();
    for line in lines {
        if !is_allowed {
            findings.push(Finding::error(
                &file.path,
                line,
                format!("unsafe code in a file that {LIST} does not name"),
            ));
        } else if !has_reason(&text, line) {
            findings.push(Finding::error(
                &file.path,
                line,
                "unsafe code without a `SAFETY:` comment above it",
            ));
        }
    }
    Ok(findings)
}

/// Whether one of the lines above (or the line itself) is a comment with a reason.
fn has_reason(text: &[&str], line: usize) -> bool {
    let from = line.saturating_sub(REASON_LINES_ABOVE + 1);
    let above = text.iter().take(line).skip(from);
    let mut comments = above.filter_map(|line| line.split_once("//").map(|(_, comment)| comment));
    comments.any(|comment| REASONS.iter().any(|reason| comment.contains(reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn count(text: &str, is_allowed: bool) -> usize {
        judge(
            &SourceFile {
                path: "a.rs".into(),
                text: text.into(),
            },
            is_allowed,
        )
        .unwrap()
        .len()
    }

    #[test]
    fn the_word_in_comments_and_lints_is_free() {
        assert_eq!(
            count(
                "#![deny(unsafe_code)]\n// unsafe is not used\nconst A: &str = \"unsafe\";\n",
                false
            ),
            0
        );
    }

    #[test]
    fn unsafe_outside_the_list_is_reported() {
        assert_eq!(count("fn f() { // SAFETY: no\n unsafe { g() } }", false), 1);
        assert_eq!(count("unsafe impl Send for A {}", false), 1);
        assert_eq!(count("m!(unsafe { g() });", false), 1);
    }

    #[test]
    fn listed_unsafe_needs_a_reason() {
        assert_eq!(
            count("fn f() {\n    // SAFETY: `g` only reads.\n    unsafe { g() }\n}", true),
            0
        );
        assert_eq!(
            count("/// # Safety\n/// Keep `a` alive.\npub unsafe fn f() {}", true),
            0
        );
        assert_eq!(count("fn f() {\n    unsafe { g() }\n}", true), 1);
        let far = format!(
            "// SAFETY: far away\n{}unsafe fn f() {{}}",
            "\n".repeat(REASON_LINES_ABOVE + 1)
        );
        assert_eq!(count(&far, true), 1);
    }

    #[test]
    fn a_stale_entry_is_reported() {
        assert_eq!(count("fn f() {}", true), 1);
    }

    #[test]
    fn the_list_knows_comments() {
        assert_eq!(
            entries("# why\n\na.rs\n  b.rs \n").collect::<Vec<_>>(),
            ["a.rs", "b.rs"]
        );
    }
}
