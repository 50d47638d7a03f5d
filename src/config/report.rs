//! What is found in a configuration, all of it in one run, and where in the file it stands.

use std::fmt;
use std::path::{Path, PathBuf};

use instantmirror_core::url::SecretUrl;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;

/// One thing that was found, at its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What it is about, and what would be right.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.file.display(),
            self.line,
            self.column,
            self.message
        )
    }
}

/// Collects what checks find. A place is the path of a key, `http.tls.listen` or `repository.0.mounts.1.path`; where the
/// file does not have the key, that of the section around it counts.
#[derive(Debug)]
pub(super) struct Report<'a> {
    file: &'a Path,
    text: &'a str,
    problems: Vec<Finding>,
    notes: Vec<Finding>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        let (problems, notes) = (Vec::new(), Vec::new());
        Self {
            file,
            text,
            problems,
            notes,
        }
    }

    /// Something that cannot be used as it is.
    pub(super) fn refuse(&mut self, place: &str, message: impl Into<String>) {
        let finding = self.finding(place, message.into());
        self.problems.push(finding);
    }

    /// The same for a check that finds one thing at most.
    pub(super) fn check(&mut self, place: &str, checked: Result<(), String>) {
        if let Err(message) = checked {
            self.refuse(place, message);
        }
    }

    /// The same for a check whose message names its key, as `[section] key` does.
    pub(super) fn check_section(&mut self, section: &str, checked: Result<(), String>) {
        let Err(message) = checked else { return };
        let named = message.strip_prefix('[').and_then(|rest| rest.split_once("] "));
        let place = named.map(|(section, rest)| {
            let key = rest.split([' ', ':']).next().unwrap_or_default();
            format!("{section}.{key}")
        });
        self.refuse(place.as_deref().unwrap_or(section), message);
    }

    /// Refuses what `named` asks for where the feature that it takes is not compiled in.
    pub(super) fn needs(&mut self, feature: &str, is_compiled: bool, place: &str, named: &str) {
        if !is_compiled {
            let text = format!("{named} needs the feature `{feature}`, which this program was built without");
            self.refuse(place, text);
        }
    }

    /// Something that works and may not be meant.
    pub(super) fn note(&mut self, place: &str, message: impl Into<String>) {
        let finding = self.finding(place, message.into());
        self.notes.push(finding);
    }

    /// The text of a plain value that the file itself has; `None` where it is left to its default.
    pub(super) fn stated(&self, place: &str) -> Option<String> {
        let table = DeTable::parse(self.text).ok()?;
        let (section, key) = place.rsplit_once('.')?;
        let span = value_at(&table, section)?.get_ref().get(key)?.span();
        self.text.get(span).map(str::to_owned)
    }

    /// The notes, unless something cannot be used.
    pub(super) fn end(mut self) -> Result<Vec<Finding>, ConfigError> {
        let order = |finding: &Finding| (finding.line, finding.column);
        self.problems.sort_by_key(order);
        self.problems.dedup();
        self.notes.sort_by_key(order);
        if self.problems.is_empty() {
            Ok(self.notes)
        } else {
            Err(ConfigError::Contradictions(self.problems))
        }
    }

    fn finding(&self, place: &str, message: String) -> Finding {
        let offset = DeTable::parse(self.text).map_or(0, |table| offset(&table, place));
        let (line, column) = position(self.text, offset);
        Finding {
            file: self.file.to_path_buf(),
            line,
            column,
            message: without_secrets(self.text, message),
        }
    }
}

/// A message about a file without the user names, passwords and queries of URLs in it. Whoever parses a value tells it in the
/// error, whatever key it stands behind: a URL may stand where an address, a path or a size is expected.
pub(super) fn without_secrets(text: &str, mut message: String) -> String {
    let Ok(table) = DeTable::parse(text) else {
        return message;
    };
    let mut values = Vec::new();
    table
        .get_ref()
        .values()
        .for_each(|value| strings(value.get_ref(), &mut values));
    for value in values {
        let shown = SecretUrl::from(value).to_string();
        let is_url = value.contains("://");
        let has_password = value.split_once('@').is_some_and(|(user, _)| user.contains(':'));
        if shown != value && (is_url || has_password) {
            // As it stands there, and as serde quotes it.
            let quoted = format!("{value:?}");
            message = message.replace(quoted.trim_matches('"'), &shown).replace(value, &shown);
        }
    }
    message
}

/// All strings of a value, and of those in it.
fn strings<'a>(value: &'a DeValue<'_>, found: &mut Vec<&'a str>) {
    match value {
        DeValue::String(text) => found.push(text),
        DeValue::Array(array) => array.iter().for_each(|value| strings(value.get_ref(), found)),
        DeValue::Table(table) => table.values().for_each(|value| strings(value.get_ref(), found)),
        _ => {}
    }
}

/// Where the value of a key begins, or the nearest thing around it that is there.
fn offset(table: &Spanned<DeTable<'_>>, place: &str) -> usize {
    let mut steps = place.split('.');
    let mut here: Option<&Spanned<DeValue<'_>>> = steps.next().and_then(|first| table.get_ref().get(first));
    let mut offset = 0;
    while let Some(value) = here {
        offset = value.span().start;
        here = match (value.get_ref(), steps.next()) {
            (DeValue::Table(table), Some(step)) => table.get(step),
            (DeValue::Array(array), Some(step)) => step.parse().ok().and_then(|at: usize| array.get(at)),
            _ => None,
        };
    }
    offset
}

/// What stands at a place.
fn value_at<'t, 'i>(table: &'t Spanned<DeTable<'i>>, place: &str) -> Option<&'t Spanned<DeValue<'i>>> {
    let mut steps = place.split('.');
    let mut here = table.get_ref().get(steps.next()?)?;
    for step in steps {
        here = match here.get_ref() {
            DeValue::Table(table) => table.get(step)?,
            DeValue::Array(array) => array.get(step.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(here)
}

/// Line and column of a byte offset, from 1.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
