//! The programs that tests call, read from their source: a list by hand would forget one.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use syn::visit::{self, Visit};

use crate::tidy::Repository;

/// Programs that no Debian package of the list has to bring: the toolchain is what the README asks for, `sudo` is for
/// those who are not root, and one is called because it does not exist.
const NOT_FROM_PACKAGES: &[&str] = &["cargo", "mmdebstrap", "no-such-program", "rustc", "rustup", "sudo"];

/// Their names, sorted.
pub(super) fn called(root: &Path) -> Result<Vec<String>> {
    let repository = Repository::open(root)?;
    let mut calls = Calls::default();
    for file in repository.rust_files() {
        if file.path.split('/').any(|part| part == "tests") || file.path.starts_with("xtask/") {
            calls.visit_file(&file.parse()?);
        }
    }
    let names = calls.0.into_iter();
    Ok(names
        .filter(|name| !NOT_FROM_PACKAGES.contains(&name.as_str()) && !name.contains('/'))
        .collect())
}

/// First arguments of `clean_command("…")` and `Command::new("…")`.
#[derive(Default)]
struct Calls(BTreeSet<String>);

impl<'ast> Visit<'ast> for Calls {
    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if let syn::Expr::Path(function) = call.func.as_ref()
            && starts_a_program(&function.path)
            && let Some(syn::Expr::Lit(literal)) = call.args.first()
            && let syn::Lit::Str(name) = &literal.lit
        {
            self.0.insert(name.value());
        }
        visit::visit_expr_call(self, call);
    }
}

fn starts_a_program(path: &syn::Path) -> bool {
    let mut segments = path.segments.iter().rev().map(|segment| segment.ident.to_string());
    match segments.next().as_deref() {
        Some("clean_command") => true,
        Some("new") => segments.next().as_deref() == Some("Command"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_found_wherever_they_stand() {
        let source = r#"
            fn one() { let _ = crate::command::clean_command("curl").arg("wget"); }
            fn two() { run(std::process::Command::new("strace").args(["rsync"])); Vec::<u8>::new("no"); }
        "#;
        let mut calls = Calls::default();
        calls.visit_file(&syn::parse_file(source).unwrap());
        assert_eq!(Vec::from_iter(calls.0), ["curl", "strace"]);
    }
}
