//! Check `invariants-tagged`: ARCHITECTURE.md and the checks agree.
//!
//! Every item in its section of invariants carries a `[tidy: name]` tag, every tag names a check that exists, and every
//! check is named by some tag. So neither a promise without a test nor a test without a stated promise can stay.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Finding, Repository, names};

const DOCUMENT: &str = "ARCHITECTURE.md";
const SECTION: &str = "## Invariants";
const TAG: &str = "[tidy: ";

/// Reports untagged invariants, tags without a check and checks without a tag.
pub(crate) fn check(repository: &Repository) -> Result<Vec<Finding>> {
    let Some(document) = repository.file(DOCUMENT) else {
        return Ok(vec![Finding::error(DOCUMENT, 0, "is missing")]);
    };
    Ok(judge(&document.text, &names().collect::<Vec<_>>()))
}

fn judge(text: &str, checks: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut named = BTreeSet::new();
    let items = invariants(text);
    if items.is_empty() {
        findings.push(Finding::error(DOCUMENT, 0, format!("has no items under `{SECTION}`")));
    }
    for (line, item) in items {
        let tags = tags(&item);
        if tags.is_empty() {
            findings.push(Finding::error(DOCUMENT, line, "invariant without a `[tidy: …]` tag"));
        }
        for tag in tags {
            if !checks.contains(&tag.as_str()) {
                findings.push(Finding::error(
                    DOCUMENT,
                    line,
                    format!("`{tag}` is not a check of tidy"),
                ));
            }
            named.insert(tag);
        }
    }
    let unnamed = checks.iter().filter(|check| !named.contains(**check));
    findings
        .extend(unnamed.map(|check| Finding::error(DOCUMENT, 0, format!("no invariant names the check `{check}`"))));
    findings
}

/// The list items of the section with the line each begins on, continuation lines joined.
fn invariants(text: &str) -> Vec<(usize, String)> {
    let mut items: Vec<(usize, String)> = Vec::new();
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("## ") {
            inside = line.starts_with(SECTION);
        } else if inside && line.starts_with("- ") {
            items.push((index + 1, line.to_owned()));
        } else if inside
            && line.starts_with("  ")
            && let Some((_, item)) = items.last_mut()
        {
            item.push(' ');
            item.push_str(line.trim());
        }
    }
    items
}

fn tags(item: &str) -> Vec<String> {
    let pieces = item.split(TAG).skip(1);
    pieces
        .filter_map(|piece| piece.split_once(']'))
        .map(|(name, _)| name.trim().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn messages(text: &str) -> Vec<String> {
        judge(text, &["one", "two"])
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    }

    #[test]
    fn tagged_invariants_pass() {
        let text = "# A\n- free\n## Invariants of absence\n- First. [tidy: one]\n- Second,\n  longer. [tidy: two]\n## B\n- free\n";
        assert_eq!(messages(text), Vec::<String>::new());
    }

    #[test]
    fn an_untagged_invariant_is_reported() {
        let text = "## Invariants\n- First. [tidy: one] [tidy: two]\n- Second.\n";
        assert_eq!(messages(text), ["invariant without a `[tidy: …]` tag"]);
    }

    #[test]
    fn tags_and_checks_must_match() {
        let text = "## Invariants\n- First. [tidy: one]\n- Second. [tidy: three]\n";
        assert_eq!(
            messages(text),
            ["`three` is not a check of tidy", "no invariant names the check `two`"]
        );
    }

    #[test]
    fn a_document_without_the_section_is_reported() {
        assert_eq!(messages("# A\n- item\n").len(), 3);
    }
}
