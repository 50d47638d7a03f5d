//! Check `crate-arrows`: which package of the workspace may depend on which.
//!
//! Looks at declared dependencies, optional and target-specific ones included, so no choice of features hides an arrow.
//! Development dependencies are free: they never reach a user.

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use super::{Finding, Repository};

/// Where a package stands; decides what it may point at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Core,
    /// One of the shells around core.
    Sibling,
    Facade,
    Binary,
    /// Chores and test support: outside the product, in both directions.
    Aside,
}

const ROLES: &[(&str, Role)] = &[
    ("instantmirror-core", Role::Core),
    ("instantmirror-store", Role::Sibling),
    ("instantmirror-swarm", Role::Sibling),
    ("instantmirror-http", Role::Sibling),
    ("instantmirror-fuse", Role::Sibling),
    ("instantmirror-tracker", Role::Sibling),
    ("instantmirror", Role::Facade),
    ("imserver", Role::Binary),
    ("imnode", Role::Binary),
    ("imtracker", Role::Binary),
    ("catalog-scale", Role::Binary),
    ("cache-scale", Role::Binary),
    ("tracker-load", Role::Binary),
    ("fetch-bench", Role::Binary),
    ("expiry-sim", Role::Binary),
    ("instantmirror-testkit", Role::Aside),
    ("xtask", Role::Aside),
];

/// Reports every arrow that points the wrong way and every package without a role.
pub(crate) fn check(repository: &Repository) -> Result<Vec<Finding>> {
    let metadata = MetadataCommand::new().current_dir(repository.root()).no_deps().exec();
    let arrows = arrows_of(&metadata.context("cargo metadata failed")?);
    Ok(judge(&arrows))
}

/// A package of the workspace and its dependencies inside the workspace.
type Arrows = Vec<(String, Vec<String>)>;

fn arrows_of(metadata: &Metadata) -> Arrows {
    let packages = metadata.workspace_packages();
    packages
        .into_iter()
        .map(|package| {
            let inside = package
                .dependencies
                .iter()
                .filter(|dependency| dependency.path.is_some());
            let shipped = inside.filter(|dependency| dependency.kind != DependencyKind::Development);
            (
                package.name.to_string(),
                shipped.map(|dependency| dependency.name.clone()).collect(),
            )
        })
        .collect()
}

fn judge(arrows: &Arrows) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (from, targets) in arrows {
        let Some(from_role) = role(from) else {
            findings.push(Finding::error(
                from,
                0,
                "package without a role; give it one in xtask/src/tidy/arrows.rs",
            ));
            continue;
        };
        for to in targets {
            if !role(to).is_some_and(|to_role| may_point(from_role, to_role)) {
                findings.push(Finding::error(from, 0, format!("must not depend on `{to}`")));
            }
        }
    }
    findings
}

fn role(package: &str) -> Option<Role> {
    ROLES.iter().find(|(name, _)| *name == package).map(|(_, role)| *role)
}

fn may_point(from: Role, to: Role) -> bool {
    match from {
        Role::Core | Role::Aside => false,
        Role::Sibling => to == Role::Core,
        Role::Facade => matches!(to, Role::Core | Role::Sibling),
        Role::Binary => to == Role::Facade,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn messages(from: &str, to: &[&str]) -> Vec<String> {
        let arrows = vec![(from.to_owned(), to.iter().map(|name| (*name).to_owned()).collect())];
        judge(&arrows).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn the_drawn_arrows_are_allowed() {
        assert!(messages("instantmirror-store", &["instantmirror-core"]).is_empty());
        assert!(messages("instantmirror", &["instantmirror-core", "instantmirror-http"]).is_empty());
        assert!(messages("imnode", &["instantmirror"]).is_empty());
        assert!(messages("xtask", &[]).is_empty());
    }

    #[test]
    fn arrows_against_the_stream_are_reported() {
        assert_eq!(messages("instantmirror-core", &["instantmirror-store"]).len(), 1);
        assert_eq!(messages("instantmirror-http", &["instantmirror-store"]).len(), 1);
        assert_eq!(messages("instantmirror-http", &["instantmirror"]).len(), 1);
        assert_eq!(messages("imnode", &["instantmirror-core"]).len(), 1);
        assert_eq!(messages("instantmirror", &["instantmirror-testkit"]).len(), 1);
        assert_eq!(messages("xtask", &["instantmirror"]).len(), 1);
    }

    #[test]
    fn a_new_package_must_get_a_role() {
        assert!(messages("instantmirror-extra", &[])[0].contains("without a role"));
    }
}
