//! `cargo xtask tidy`: the rules of this repository that neither rustc nor clippy can know, as a test.
//!
//! Each check has a name, by which ARCHITECTURE.md refers to it, and lives in a module of its own with samples that
//! pass and samples that must not. Checks only read; they never repair anything.

mod architecture;
mod arrows;
mod core_api;
mod layers;
mod lengths;
mod named_tests;
mod settings;
mod source;
mod text;
mod tree;
mod unsafe_code;

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};

pub(crate) use source::{Repository, SourceFile};

/// One thing a check has to say about one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    severity: Severity,
    /// Path relative to the workspace, or the name of a package.
    place: String,
    /// Line in that file; 0 where the finding is about the whole.
    line: usize,
    message: String,
}

/// Whether a finding fails the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Severity {
    Warning,
    Error,
}

impl Finding {
    /// A finding that fails the run.
    pub(crate) fn error(place: impl Into<String>, line: usize, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            place: place.into(),
            line,
            message: message.into(),
        }
    }

    /// A finding that is reported and tolerated.
    pub(crate) fn warning(place: impl Into<String>, line: usize, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(place, line, message)
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.severity == Severity::Error {
            "error"
        } else {
            "warning"
        };
        match self.line {
            0 => write!(f, "{severity}: {}: {}", self.place, self.message),
            line => write!(f, "{severity}: {}:{line}: {}", self.place, self.message),
        }
    }
}

/// A named rule. The name is what ARCHITECTURE.md puts into its `[tidy: …]` tags.
pub(crate) struct Check {
    name: &'static str,
    run: fn(&Repository) -> Result<Vec<Finding>>,
}

/// All checks, in the order they run.
const CHECKS: &[Check] = &[
    Check {
        name: "crate-arrows",
        run: arrows::check,
    },
    Check {
        name: "module-layers",
        run: layers::check,
    },
    Check {
        name: "core-tree",
        run: tree::check,
    },
    Check {
        name: "core-no-io",
        run: core_api::check,
    },
    Check {
        name: "unsafe-listed",
        run: unsafe_code::check,
    },
    Check {
        name: "settings-open",
        run: settings::check,
    },
    Check {
        name: "lengths",
        run: lengths::check,
    },
    Check {
        name: "files-say-what",
        run: text::check_openings,
    },
    Check {
        name: "no-machine-paths",
        run: text::check_machine_paths,
    },
    Check {
        name: "nothing-unfinished",
        run: text::check_unfinished,
    },
    Check {
        name: "no-trailing-space",
        run: text::check_trailing_space,
    },
    Check {
        name: "named-tests",
        run: named_tests::check,
    },
    Check {
        name: "invariants-tagged",
        run: architecture::check,
    },
];

/// The names of all checks.
fn names() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|check| check.name)
}

/// Runs every check over the tree at `root`, prints all findings, fails if one of them is an error.
pub(crate) fn run(root: &Path) -> Result<()> {
    let repository = Repository::open(root)?;
    let mut errors = 0_usize;
    for check in CHECKS {
        let findings = (check.run)(&repository)?;
        let failed = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
            .count();
        let warned = findings.len() - failed;
        for finding in &findings {
            println!("{finding} [{}]", check.name);
        }
        let verdict = if failed == 0 { "ok" } else { "FAILED" };
        println!("tidy {:<20} {verdict} ({failed} errors, {warned} warnings)", check.name);
        errors += failed;
    }
    if errors > 0 {
        bail!("{errors} findings of tidy must be mended");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut seen: Vec<_> = names().collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), CHECKS.len());
    }

    #[test]
    fn a_finding_shows_where() {
        assert_eq!(Finding::error("a.rs", 3, "bad").to_string(), "error: a.rs:3: bad");
        assert_eq!(Finding::warning("core", 0, "odd").to_string(), "warning: core: odd");
    }
}
