//! `imtracker`, the tracker. This version has none; the program says so instead of pretending.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("imtracker: this version of InstantMirror has no tracker yet; imserver and imnode work without one");
    ExitCode::FAILURE
}
