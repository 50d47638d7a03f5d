//! The keys that a parser of configuration files knows, and those that a file states.

use std::collections::BTreeSet;

use instantmirror::config::ConfigError;
use toml::{Table, Value};

/// No file has it.
const UNKNOWN: &str = "zz_zz_zz_zz_zz_zz";

/// A step on the way to a key: its name, and whether its value is a list of tables.
type Step = (String, bool);

/// All keys of a file, as `section.key`: each table is asked for a key that it does not have, and the refusal lists those that it has.
/// `maps`: tables whose keys are names, with one of them. Tables themselves are not in the answer.
pub(crate) fn known<T>(parse: fn(&str) -> Result<T, ConfigError>, maps: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting: Vec<Vec<Step>> = vec![Vec::new()];
    let steps = |map: &&str| map.split('.').map(|name| (name.to_owned(), false)).collect();
    waiting.extend(maps.iter().map(steps));
    while let Some(table) = waiting.pop() {
        let keys = keys_of(parse, &table).unwrap_or_else(|| panic!("{table:?} is no table"));
        for key in keys {
            let below = |is_list| {
                let mut path = table.clone();
                path.push((key.clone(), is_list));
                path
            };
            match [false, true]
                .map(below)
                .into_iter()
                .find(|path| keys_of(parse, path).is_some())
            {
                Some(path) => waiting.push(path),
                None => drop(found.insert(joined(&below(false)))),
            }
        }
    }
    // A map is no key, but for the names in it.
    found.retain(|key| {
        !maps
            .iter()
            .any(|map| map.rsplit_once('.').is_some_and(|(map, _)| map == key))
    });
    found
}

fn joined(path: &[Step]) -> String {
    let names: Vec<&str> = path.iter().map(|(name, _)| name.as_str()).collect();
    names.join(".")
}

/// The keys of a table; `None` if there is no table.
fn keys_of<T>(parse: fn(&str) -> Result<T, ConfigError>, path: &[Step]) -> Option<Vec<String>> {
    let mut text = format!("{UNKNOWN} = 1");
    for (name, is_list) in path.iter().rev() {
        text = match is_list {
            true => format!("{name} = [{{ {text} }}]"),
            false => format!("{name} = {{ {text} }}"),
        };
    }
    let Err(ConfigError::Invalid { message, .. }) = parse(&text) else {
        panic!("{text}: a key that does not exist is taken");
    };
    let listed = message.strip_prefix(&format!("unknown key `{UNKNOWN}`"))?;
    Some(listed.split('`').skip(1).step_by(2).map(str::to_owned).collect())
}

/// The keys that a file states, as [`known`] writes them. `leaves`: tables that count as one value.
pub(crate) fn stated(text: &str, leaves: &[&str]) -> BTreeSet<String> {
    let table: Table = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    let mut found = BTreeSet::new();
    collect("", &table, leaves, &mut found);
    found
}

fn collect(above: &str, table: &Table, leaves: &[&str], found: &mut BTreeSet<String>) {
    for (name, value) in table {
        let key = if above.is_empty() {
            name.clone()
        } else {
            format!("{above}.{name}")
        };
        let tables: Vec<&Table> = match value {
            Value::Table(table) if !leaves.contains(&key.as_str()) => vec![table],
            Value::Array(values) => values.iter().filter_map(Value::as_table).collect(),
            _ => Vec::new(),
        };
        if tables.is_empty() {
            found.insert(key);
        } else {
            tables.into_iter().for_each(|table| collect(&key, table, leaves, found));
        }
    }
}

/// Fails unless the cases state all keys that there are.
#[track_caller]
pub(crate) fn assert_complete(known: &BTreeSet<String>, stated: &BTreeSet<String>) {
    let missing: Vec<_> = known.difference(stated).collect();
    assert!(missing.is_empty(), "keys without a counterpart in Rust: {missing:?}");
    let strange: Vec<_> = stated.difference(known).collect();
    assert!(strange.is_empty(), "no parser knows {strange:?}");
}
