//! Checks on plain text: `files-say-what`, `no-machine-paths`, `nothing-unfinished`, `no-trailing-space`.
//!
//! The patterns are put together at compile time so that this file does not report itself.

use anyhow::Result;

use super::{Finding, Repository, SourceFile};

/// Folders of somebody's machine: they work nowhere else.
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/fa", "rm/"),
    concat!(".libr", "ary"),
];

/// Words that mark unfinished work; it belongs into an issue, the tree holds what is true today.
const UNFINISHED: &[&str] = &[
    concat!("todo", "!"),
    concat!("unimpl", "emented!"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
];

/// Every Rust file opens with `//!`: what it is, what it never does.
pub(crate) fn check_openings(repository: &Repository) -> Result<Vec<Finding>> {
    let files = repository
        .rust_files()
        .filter(|file| !opens_with_documentation(&file.text));
    let message = "opens without `//!` saying what it is";
    Ok(files.map(|file| Finding::error(&file.path, 1, message)).collect())
}

fn opens_with_documentation(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    // cargo's script line and inner attributes such as `#![no_main]` may stand before it.
    lines
        .find(|line| !line.is_empty() && !line.starts_with("#!"))
        .is_some_and(|line| line.starts_with("//!"))
}

/// No file names a folder of one particular machine.
pub(crate) fn check_machine_paths(repository: &Repository) -> Result<Vec<Finding>> {
    Ok(repository.files().iter().flat_map(machine_paths_in).collect())
}

fn machine_paths_in(file: &SourceFile) -> Vec<Finding> {
    let hits = numbered_lines(file).flat_map(|(number, line)| {
        let paths = MACHINE_PATHS.iter().filter(move |path| starts_a_path(line, path));
        paths.map(move |path| (number, path))
    });
    hits.map(|(number, path)| Finding::error(&file.path, number, format!("names `{path}` of one machine")))
        .collect()
}

/// Whether `path` occurs in `line` as its own beginning, not as a part of a longer name such as `frame` + `work/`.
fn starts_a_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        !before.is_some_and(|before| before.is_alphanumeric() || matches!(before, '_' | '-' | '}' | ')'))
    })
}

/// No file holds a marker of unfinished work.
pub(crate) fn check_unfinished(repository: &Repository) -> Result<Vec<Finding>> {
    Ok(repository.files().iter().flat_map(unfinished_in).collect())
}

fn unfinished_in(file: &SourceFile) -> Vec<Finding> {
    let hits = numbered_lines(file).flat_map(|(number, line)| {
        UNFINISHED
            .iter()
            .filter(move |marker| holds_word(line, marker))
            .map(move |marker| (number, marker))
    });
    hits.map(|(number, marker)| Finding::error(&file.path, number, format!("unfinished: `{marker}`")))
        .collect()
}

/// Whether `word` stands in `line` with no letter or digit at either side.
fn holds_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        let after = line.get(at + word.len()..).and_then(|after| after.chars().next());
        ![before, after]
            .into_iter()
            .flatten()
            .any(|c| c.is_alphanumeric() || c == '_')
            || word.ends_with('!')
    })
}

/// No line of a text file ends in white space, and the file ends with one line feed.
pub(crate) fn check_trailing_space(repository: &Repository) -> Result<Vec<Finding>> {
    Ok(repository.files().iter().flat_map(trailing_space_in).collect())
}

fn trailing_space_in(file: &SourceFile) -> Vec<Finding> {
    let ends_in_space = |line: &str| line.ends_with([' ', '\t', '\r']);
    let lines = file
        .text
        .split('\n')
        .enumerate()
        .filter(|(_, line)| ends_in_space(line));
    let mut findings: Vec<Finding> = lines
        .map(|(index, _)| Finding::error(&file.path, index + 1, "ends in white space"))
        .collect();
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        findings.push(Finding::error(
            &file.path,
            file.text.lines().count(),
            "no line feed at the end of the file",
        ));
    }
    findings
}

fn numbered_lines(file: &SourceFile) -> impl Iterator<Item = (usize, &str)> {
    file.text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> SourceFile {
        SourceFile {
            path: "a.md".into(),
            text: text.into(),
        }
    }

    #[test]
    fn openings() {
        assert!(opens_with_documentation("//! What it is.\nfn f() {}"));
        assert!(opens_with_documentation("#![no_main]\n\n//! A fuzz target."));
        assert!(!opens_with_documentation("fn f() {}\n//! late"));
        assert!(!opens_with_documentation("// plain comment\n"));
        assert!(!opens_with_documentation(""));
    }

    #[test]
    fn machine_paths() {
        for path in MACHINE_PATHS {
            assert_eq!(
                machine_paths_in(&file(&format!("fine\nsee {path}main\n"))).len(),
                1,
                "{path}"
            );
        }
        let longer = concat!("frame/wo", "rk/x");
        assert!(machine_paths_in(&file(longer)).is_empty());
        assert!(machine_paths_in(&file(concat!("network/stack and std.", "library\n"))).is_empty());
    }

    #[test]
    fn unfinished_markers() {
        for marker in UNFINISHED {
            assert_eq!(
                unfinished_in(&file(&format!("    {marker} later\n"))).len(),
                1,
                "{marker}"
            );
        }
        assert!(unfinished_in(&file(concat!("mktemp im.XX", "XXXX\nto do a thing\nunfixmeable\n"))).is_empty());
    }

    #[test]
    fn trailing_space() {
        assert!(trailing_space_in(&file("a\n\nb\n")).is_empty());
        assert!(trailing_space_in(&file("")).is_empty());
        assert_eq!(trailing_space_in(&file("a \nb\t\nc\r\nd\n")).len(), 3);
        assert_eq!(trailing_space_in(&file("a")).len(), 1);
    }
}
