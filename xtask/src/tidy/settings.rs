//! Check `settings-open`: public structs of settings are `#[non_exhaustive]`, so that a new setting breaks no embedder.
//!
//! A struct is one of settings if its name ends in `Config`, `Limits` or `Options`, or if it stands in `src/config/`, and if it has public fields.

use anyhow::Result;

use super::source::is_test_only;
use super::{Finding, Repository, SourceFile};

/// Where the configuration of the daemons stands.
const CONFIG: &str = "src/config/";

/// Structs that have no defaults to begin with: what they say belongs together, and all of it is given each time.
const COMPLETE: &[(&str, &str)] = &[
    ("instantmirror-swarm/src/session/mod.rs", "SessionConfig"),
    ("instantmirror-swarm/src/wire/decoder.rs", "Limits"),
    ("src/config/report.rs", "Finding"),
];

/// Reports every struct of settings that can be written as a literal outside of its crate.
pub(crate) fn check(repository: &Repository) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in repository.rust_files().filter(|file| is_library(&file.path)) {
        findings.extend(judge(file)?);
    }
    Ok(findings)
}

fn is_library(path: &str) -> bool {
    path.starts_with("src/") || path.starts_with("instantmirror-") && path.contains("/src/")
}

fn judge(file: &SourceFile) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for item in file.parse()?.items {
        let syn::Item::Struct(item) = item else { continue };
        let name = item.ident.to_string();
        let is_named_so = ["Config", "Limits", "Options"].iter().any(|end| name.ends_with(end));
        let is_settings = is_named_so || file.path.starts_with(CONFIG);
        let is_public = |visibility: &syn::Visibility| matches!(visibility, syn::Visibility::Public(_));
        let fields = match &item.fields {
            syn::Fields::Named(fields) => fields.named.iter().any(|field| is_public(&field.vis)),
            _ => false,
        };
        let is_open = item
            .attrs
            .iter()
            .any(|attribute| attribute.path().is_ident("non_exhaustive"));
        let is_complete = COMPLETE.contains(&(file.path.as_str(), name.as_str()));
        if is_settings && is_public(&item.vis) && fields && !is_open && !is_complete && !is_test_only(&item.attrs) {
            let text = format!("`{name}` is settings: give it #[non_exhaustive], and `Default` or `new`");
            findings.push(Finding::error(&file.path, item.ident.span().start().line, text));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn found(path: &str, text: &str) -> usize {
        let (path, text) = (path.into(), text.into());
        judge(&SourceFile { path, text }).unwrap().len()
    }

    #[test]
    fn settings_with_public_fields_are_open() {
        let bad = "pub struct PeerLimits { pub slots: usize }";
        assert_eq!(found("instantmirror-swarm/src/a.rs", bad), 1);
        assert_eq!(
            found("instantmirror-swarm/src/a.rs", &format!("#[non_exhaustive] {bad}")),
            0
        );
        assert_eq!(found("src/config/a.rs", "pub struct Cache { pub dir: u8 }"), 1);
        assert_eq!(found("src/a.rs", "pub struct PublishOptions { pub note: String }"), 1);
        for good in [
            "pub struct PeerLimits { slots: usize }",
            "struct PeerLimits { pub slots: usize }",
            "pub struct MountOptions { name: String }",
            "pub struct Rate(pub u64);",
            "pub struct Mount { pub index: bool }",
        ] {
            assert_eq!(found("src/a.rs", good), 0, "{good}");
        }
    }
}
