//! The outcome of many test binaries, read from the lines that libtest prints.

use std::fmt;

/// Counts, and the names of tests that failed or were skipped.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    passed: u64,
    failed: Vec<String>,
    /// With the reason of `#[ignore = "…"]`.
    skipped: Vec<(String, String)>,
}

impl Verdict {
    /// Takes a line of a test binary's output: `test NAME ... ok`, `FAILED`, or `ignored, REASON`.
    pub(super) fn read(&mut self, line: &str) {
        let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) else {
            return;
        };
        // `should_panic` stands behind the name.
        let name = name.split(" - should panic").next().unwrap_or(name);
        match outcome.split_once(", ").unwrap_or((outcome, "")) {
            ("ok", _) => self.passed += 1,
            ("FAILED", _) => self.failed.push(name.to_owned()),
            ("ignored", reason) => self.skipped.push((name.to_owned(), reason.to_owned())),
            _ => {}
        }
    }

    /// How many tests failed.
    pub(super) fn failed(&self) -> usize {
        self.failed.len()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.failed {
            writeln!(f, "failed: {name}")?;
        }
        for (name, reason) in &self.skipped {
            let reason = if reason.is_empty() { "no reason given" } else { reason };
            writeln!(f, "skipped: {name} ({reason}; `cargo xtask soak --part long` runs it)")?;
        }
        let (failed, skipped) = (self.failed.len(), self.skipped.len());
        writeln!(f, "{} passed, {failed} failed, {skipped} skipped", self.passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "running 5 tests\n\
        test one ... ok\n\
        test deep::two - should panic ... ok\n\
        test three ... FAILED\n\
        test four ... ignored, takes an hour\n\
        test src/lib.rs - (line 5) ... ignored\n\
        test result: FAILED. 2 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";

    #[test]
    fn what_failed_and_what_was_skipped_is_named() {
        let mut verdict = Verdict::default();
        OUTPUT.lines().for_each(|line| verdict.read(line));
        assert_eq!(verdict.failed(), 1);
        let text = verdict.to_string();
        assert!(text.contains("failed: three\n"), "{text}");
        assert!(text.contains("skipped: four (takes an hour;"), "{text}");
        assert!(text.ends_with("2 passed, 1 failed, 2 skipped\n"), "{text}");
    }

    #[test]
    fn other_lines_do_not_count() {
        let mut verdict = Verdict::default();
        verdict.read("test result: ok. 7 passed; 0 failed");
        verdict.read("warning: test ... ok");
        assert_eq!(verdict, Verdict::default());
    }
}
