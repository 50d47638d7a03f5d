//! Repository chores, run as `cargo xtask <chore>`: what a contributor runs before a commit and what CI runs after it.
//!
//! Never part of the product: no product crate depends on this package, and this package depends on none of them.

#![allow(
    clippy::print_stdout,
    reason = "a chore talks to the person or the CI log that started it"
)]

mod ci;
mod features;
mod setup;
mod soak;
mod steps;
mod suite;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Chores of the InstantMirror repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Check the rules of ARCHITECTURE.md and of style that rustc and clippy cannot know.
    Tidy,
    /// Install the Debian packages that the tests need; does nothing where they are present.
    Setup,
    /// Set up, build everything, run every test (documentation examples included).
    Test {
        /// Passed on to `cargo test`, for example `-p instantmirror-core -- names`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Proofs that take too long for CI: packages in a clean Debian root, tests again and again under load, long tests.
    Soak {
        /// Only these parts; without one, all.
        #[arg(long = "part", value_enum)]
        parts: Vec<soak::Part>,
        /// How often the tests run beside busy loops.
        #[arg(long, default_value_t = 50)]
        rounds: u32,
        /// Passed on to `cargo test` in those rounds, for example `--test e2e -- kill_cache`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Everything CI checks beside the tests: format, clippy, docs, tidy, licences, oldest toolchain, fuzz targets.
    Ci,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments.chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: &Chore) -> Result<()> {
    let root = workspace_root()?;
    match chore {
        Chore::Tidy => tidy::run(&root),
        Chore::Setup => setup::run(),
        Chore::Test { arguments } => suite::run(&root, arguments),
        Chore::Soak {
            parts,
            rounds,
            arguments,
        } => soak::run(&root, parts, *rounds, arguments),
        Chore::Ci => ci::run(&root),
    }
}

/// The folder of the workspace this program was compiled in; chores work there whatever the current folder is.
fn workspace_root() -> Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = own.parent().context("the xtask package has no parent folder")?;
    Ok(root.to_path_buf())
}
