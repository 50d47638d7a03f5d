//! Check `named-tests`: the tests that the documents name as what keeps a line true are there.
//!
//! In docs/compat.md `module::name` is an end-to-end test of that module, and `module::` means all of its tests. In
//! docs/reliability.md a name is that of a function anywhere in the repository: some tests are made by macros.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use syn::visit::{self, Visit};

use super::{Finding, Repository, SourceFile};

const COMPATIBILITY: &str = "docs/compat.md";
const RELIABILITY: &str = "docs/reliability.md";
const END_TO_END: &str = "tests/e2e/";
/// A name of so many words in docs/reliability.md is that of a test, and no key of a configuration.
const WORDS_MIN: usize = 4;

/// The names of tests by module.
type Tests = BTreeMap<String, BTreeSet<String>>;

/// Reports every test that is named and does not exist.
pub(crate) fn check(repository: &Repository) -> Result<Vec<Finding>> {
    let mut tests = Tests::new();
    let mut functions = BTreeSet::new();
    for file in repository.rust_files() {
        functions.extend(functions_in(&file.text));
        if let Some(module) = module_of(&file.path) {
            let mut found = TestNames::default();
            found.visit_file(&file.parse()?);
            tests.entry(module.to_owned()).or_default().extend(found.0);
        }
    }
    let mut findings = Vec::new();
    if let Some(file) = repository.file(COMPATIBILITY) {
        findings.extend(judge(file, |name| is_missing_test(name, &tests)));
    }
    if let Some(file) = repository.file(RELIABILITY) {
        findings.extend(judge(file, |name| {
            (is_long_name(name) && !functions.contains(name)).then(|| format!("there is no test `{name}`"))
        }));
    }
    Ok(findings)
}

/// `tests/e2e/swarm.rs` and what lies in `tests/e2e/swarm/` are one module.
fn module_of(path: &str) -> Option<&str> {
    let inner = path.strip_prefix(END_TO_END)?;
    let module = inner.split(['/', '.']).next();
    module.filter(|module| *module != "main")
}

fn judge(file: &SourceFile, fault: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        // Code stands between the first and the second backtick, the third and the fourth, and so on.
        for code in line.split('`').skip(1).step_by(2) {
            findings.extend(fault(code).map(|message| Finding::error(&file.path, index + 1, message)));
        }
    }
    findings
}

/// What is wrong with `module::name` or `module::`; `None` also for all other code.
fn is_missing_test(code: &str, tests: &Tests) -> Option<String> {
    let (module, name) = code.split_once("::")?;
    if !is_identifier(module) || !name.is_empty() && !is_identifier(name) {
        return None;
    }
    match tests.get(module) {
        None => Some(format!("`{code}`: there is no {END_TO_END}{module}.rs")),
        Some(tests) if name.is_empty() && tests.is_empty() => Some(format!("`{code}`: {module} has no test")),
        Some(tests) if !name.is_empty() && !tests.contains(name) => {
            Some(format!("`{code}`: {module} has no such test"))
        }
        Some(_) => None,
    }
}

fn is_identifier(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    !text.is_empty() && text.bytes().all(is_part)
}

fn is_long_name(code: &str) -> bool {
    is_identifier(code) && code.split('_').count() >= WORDS_MIN
}

/// Names that stand behind `fn`, wherever that is.
fn functions_in(text: &str) -> impl Iterator<Item = String> {
    text.split("fn ").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        rest[..end.unwrap_or(rest.len())].to_owned()
    })
}

/// Functions with an attribute that ends in `test`.
#[derive(Default)]
struct TestNames(BTreeSet<String>);

impl<'ast> Visit<'ast> for TestNames {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        let is_test = |attribute: &syn::Attribute| {
            let last = attribute.path().segments.last();
            last.is_some_and(|segment| segment.ident == "test")
        };
        if function.attrs.iter().any(is_test) {
            self.0.insert(function.sig.ident.to_string());
        }
        visit::visit_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tests() -> Tests {
        let mut found = TestNames::default();
        let source = "#[test] fn apt_updates() {} #[tokio::test] async fn dnf_updates() {} fn helper() {}";
        found.visit_file(&syn::parse_file(source).unwrap());
        Tests::from([("debian".to_owned(), found.0), ("world".to_owned(), BTreeSet::new())])
    }

    #[test]
    fn tests_that_are_there_are_fine_and_all_others_are_named() {
        let fault = |code: &str| is_missing_test(code, &tests());
        for good in [
            "debian::apt_updates",
            "debian::dnf_updates",
            "debian::",
            "core::url::SecretUrl",
            "a b::c",
            "x",
        ] {
            assert_eq!(fault(good), None, "{good}");
        }
        for bad in ["debian::helper", "debian::apt_update", "debain::apt_updates", "world::"] {
            assert!(fault(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn the_line_of_a_fault_is_told_and_code_alone_counts() {
        let file = SourceFile {
            path: COMPATIBILITY.to_owned(),
            text: "debian::no\n| `apt` | e2e `debian::apt_updates`, `debian::gone` | debian::gone |\n".to_owned(),
        };
        let found = judge(&file, |code| is_missing_test(code, &tests()));
        assert_eq!(found.len(), 1);
        assert!(
            found[0]
                .to_string()
                .starts_with("error: docs/compat.md:2: `debian::gone`"),
            "{}",
            found[0]
        );
    }

    #[test]
    fn modules_are_files_or_folders() {
        assert_eq!(module_of("tests/e2e/curl.rs"), Some("curl"));
        assert_eq!(module_of("tests/e2e/curl/ranges.rs"), Some("curl"));
        assert_eq!((module_of("tests/e2e/main.rs"), module_of("src/lib.rs")), (None, None));
    }

    #[test]
    fn long_names_are_those_of_functions() {
        let functions: BTreeSet<String> = functions_in("pub fn a_b_c_d() {}\nfn e<T>() {}").collect();
        assert!(functions.contains("a_b_c_d") && functions.contains("e"));
        assert!(is_long_name("a_b_c_d") && !is_long_name("max_peers_torrent") && !is_long_name("a_b_c::d_e"));
    }
}
