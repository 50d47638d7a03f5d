//! Check `lengths`: files with one subject, functions that fit a screen.
//!
//! Over the first bound a length is reported, so that somebody looks for the seam; over the second it fails. A file's
//! inline `#[cfg(test)]` modules do not count, its documentation does.

use anyhow::Result;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use super::source::is_test_only;
use super::{Finding, Repository, SourceFile};

const FILE_LINES_WARN: usize = 600;
const FILE_LINES_MAX: usize = 900;
const FUNCTION_LINES_WARN: usize = 70;
const FUNCTION_LINES_MAX: usize = 140;

/// Reports long files and long functions.
pub(crate) fn check(repository: &Repository) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in repository.rust_files() {
        findings.extend(judge(file)?);
    }
    Ok(findings)
}

fn judge(file: &SourceFile) -> Result<Vec<Finding>> {
    let mut lengths = Lengths::default();
    lengths.visit_file(&file.parse()?);
    let lines = file.text.lines().count().saturating_sub(lengths.test_lines);
    let mut findings: Vec<Finding> = finding(file, 0, "the file", lines, FILE_LINES_WARN, FILE_LINES_MAX)
        .into_iter()
        .collect();
    for (line, name, lines) in &lengths.functions {
        let what = format!("function `{name}`");
        findings.extend(finding(
            file,
            *line,
            &what,
            *lines,
            FUNCTION_LINES_WARN,
            FUNCTION_LINES_MAX,
        ));
    }
    Ok(findings)
}

fn finding(file: &SourceFile, line: usize, what: &str, lines: usize, warn: usize, max: usize) -> Option<Finding> {
    if lines > max {
        Some(Finding::error(
            &file.path,
            line,
            format!("{what} has {lines} lines, more than {max}"),
        ))
    } else if lines > warn {
        Some(Finding::warning(
            &file.path,
            line,
            format!("{what} has {lines} lines; beyond {warn} look for the seam"),
        ))
    } else {
        None
    }
}

/// What a walk over a file measures.
#[derive(Default)]
struct Lengths {
    /// Line, name, length from `fn` to the closing brace.
    functions: Vec<(usize, String, usize)>,
    /// Lines inside inline test modules.
    test_lines: usize,
    inside_tests: bool,
}

impl Lengths {
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let from = signature.span().start().line;
        let to = block.span().end().line;
        self.functions
            .push((from, signature.ident.to_string(), to.saturating_sub(from) + 1));
    }
}

impl<'ast> Visit<'ast> for Lengths {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let begins_tests = !self.inside_tests && item.content.is_some() && is_test_only(&item.attrs);
        if begins_tests {
            let span = item.span();
            self.test_lines += span.end().line.saturating_sub(span.start().line) + 1;
            self.inside_tests = true;
        }
        visit::visit_item_mod(self, item);
        if begins_tests {
            self.inside_tests = false;
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn report(text: &str) -> Vec<Finding> {
        judge(&SourceFile {
            path: "a.rs".into(),
            text: text.into(),
        })
        .unwrap()
    }

    fn function_of(lines: usize) -> String {
        format!("fn f() {{\n{}}}\n", "g();\n".repeat(lines - 2))
    }

    #[test]
    fn lengths_up_to_the_bound_pass() {
        assert!(report(&function_of(FUNCTION_LINES_WARN)).is_empty());
        assert!(report(&"\n".repeat(FILE_LINES_WARN)).is_empty());
    }

    #[test]
    fn lengths_over_the_first_bound_are_reported_and_over_the_second_fail() {
        assert_eq!(
            report(&function_of(FUNCTION_LINES_WARN + 1))[0].severity,
            super::super::Severity::Warning
        );
        assert_eq!(
            report(&function_of(FUNCTION_LINES_MAX + 1))[0].severity,
            super::super::Severity::Error
        );
        assert_eq!(
            report(&"\n".repeat(FILE_LINES_WARN + 1))[0].severity,
            super::super::Severity::Warning
        );
        assert_eq!(
            report(&"\n".repeat(FILE_LINES_MAX + 1))[0].severity,
            super::super::Severity::Error
        );
    }

    #[test]
    fn methods_and_trait_defaults_are_measured() {
        let body = function_of(FUNCTION_LINES_WARN + 1);
        assert_eq!(report(&format!("impl A {{\n{body}}}")).len(), 1);
        assert_eq!(report(&format!("trait A {{\n{body}}}")).len(), 1);
    }

    #[test]
    fn test_modules_do_not_make_a_file_long() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(FILE_LINES_MAX + 1));
        assert!(report(&tests).is_empty());
    }
}
