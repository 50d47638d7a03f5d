//! Each optional feature builds alone and without the others, and what is left out brings none of its dependencies.

use std::path::Path;

use anyhow::{Result, bail};

use crate::steps::{cargo, output, run};

/// Packages with the features that each have to build alone. No feature at all is tried too.
const ALONE: &[(&str, &[&str])] = &[
    ("instantmirror-http", &["tls", "http2"]),
    ("instantmirror-store", &["metadata-check", "references"]),
    (
        "instantmirror",
        &["master", "node", "tracker", "tls", "http2", "metadata-check"],
    ),
];

/// Packages that nothing below a crate without its default features may bring.
const ABSENT: &[(&str, &[&str])] = &[
    (
        "instantmirror-http",
        &[
            "aws-lc-rs",
            "aws-lc-sys",
            "bzip2",
            "h2",
            "libsqlite3-sys",
            "lzma-rust2",
            "quick-xml",
            "rayon",
            "reqwest",
            "ring",
            "rusqlite",
            "rustls",
        ],
    ),
    (
        "instantmirror-store",
        &[
            "bzip2",
            "libsqlite3-sys",
            "lzma-rust2",
            "quick-xml",
            "rusqlite",
            "tokio",
            "zstd",
        ],
    ),
    (
        "instantmirror",
        &[
            "bzip2",
            "h2",
            "libsqlite3-sys",
            "lzma-rust2",
            "notify",
            "quick-xml",
            "rusqlite",
        ],
    ),
];

/// The facade without what the crates below have: cargo gives a crate the features that all who use it in one build ask for.
const UNIFIED: &[&str] = &[
    "--package=instantmirror",
    "--package=instantmirror-http",
    "--package=instantmirror-store",
    "--no-default-features",
    "--features=instantmirror/master,instantmirror/node,instantmirror/tracker",
    "--features=instantmirror-http/tls,instantmirror-http/http2",
    "--features=instantmirror-store/metadata-check,instantmirror-store/references",
];

/// Tests of what is missing: the server without encryption, and configurations that ask for what is not there.
const TESTED: &[&[&str]] = &[
    &["--package", "instantmirror-http", "--lib", "--test", "e2e"],
    &[
        "--package",
        "instantmirror",
        "--features",
        "master,node,tracker",
        "--lib",
        "config::",
    ],
];

/// Builds, lints and tests the features, and looks at what the crates without them stand on.
pub(crate) fn check(root: &Path) -> Result<()> {
    for (package, absent) in ABSENT {
        refuse_present(root, package, absent)?;
    }
    for (package, features) in ALONE {
        for feature in std::iter::once(&"").chain(*features) {
            let mut command = cargo(root);
            command.args(["clippy", "--package", package, "--no-default-features"]);
            run(command.args(["--features", feature, "--", "-D", "warnings"]))?;
        }
    }
    run(cargo(root).arg("clippy").args(UNIFIED).args(["--", "-D", "warnings"]))?;
    for selection in TESTED {
        run(cargo(root)
            .args(["test", "--quiet", "--no-default-features"])
            .args(*selection))?;
    }
    Ok(())
}

fn refuse_present(root: &Path, package: &str, absent: &[&str]) -> Result<()> {
    let mut command = cargo(root);
    command.args(["tree", "--package", package, "--no-default-features"]);
    let tree = output(command.args(["--edges", "normal,build", "--prefix", "none"]))?;
    match present(&tree, absent).as_slice() {
        [] => Ok(()),
        found => bail!("{package} without default features stands on {}", found.join(", ")),
    }
}

/// Those of the packages that a tree names.
fn present<'a>(tree: &str, packages: &[&'a str]) -> Vec<&'a str> {
    let names = || tree.lines().filter_map(|line| line.split(' ').next());
    packages
        .iter()
        .copied()
        .filter(|package| names().any(|name| name == *package))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_names_are_looked_for() {
        let tree = "instantmirror-http v0.1.0 (/x)\nh2 v0.4.0\nrustls-pki-types v1.0.0 (*)\n";
        assert_eq!(present(tree, &["h2", "rustls", "http"]), ["h2"]);
    }
}
