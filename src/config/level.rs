//! `[log] level`: which lines are logged.
//!
//! Key decision: a level that is given for some parts alone never silences the rest: errors of it are logged. Reason:
//! the filter's own language takes every unknown word for the name of a part and is silent about all others, so a
//! mistake would cost the operator the log.

use tracing_subscriber::EnvFilter;

/// The levels, and other words for them.
const LEVELS: [(&str, &str); 7] = [
    ("error", "error"),
    ("warn", "warn"),
    ("warning", "warn"),
    ("info", "info"),
    ("debug", "debug"),
    ("trace", "trace"),
    ("off", "off"),
];

/// What our lines are logged for.
const PARTS: [&str; 10] = [
    "imnode",
    "imserver",
    "imtracker",
    "instantmirror",
    "instantmirror_core",
    "instantmirror_fuse",
    "instantmirror_http",
    "instantmirror_store",
    "instantmirror_swarm",
    "instantmirror_tracker",
];

/// The filter for a level like `info`, or for directives like `info,instantmirror_swarm=debug`.
///
/// # Errors
/// A text that says what is wrong and what would be right.
pub fn log_filter(text: &str) -> Result<EnvFilter, String> {
    let mut directives = Vec::new();
    let mut has_level = false;
    for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        if let Some(level) = level(directive) {
            has_level = true;
            directives.push(level.to_owned());
            continue;
        }
        directives.push(part(directive)?);
    }
    if !has_level {
        directives.insert(0, "error".to_owned());
    }
    let directives = directives.join(",");
    EnvFilter::builder()
        .parse(&directives)
        .map_err(|error| format!("'{text}': {error}"))
}

fn level(word: &str) -> Option<&'static str> {
    let mut levels = LEVELS.iter();
    levels
        .find(|(name, _)| word.eq_ignore_ascii_case(name))
        .map(|(_, level)| *level)
}

/// A directive that is about one part: `instantmirror_swarm`, `hyper=debug`, `[span]=trace`.
fn part(directive: &str) -> Result<String, String> {
    let (target, said) = directive
        .split_once('=')
        .map_or((directive, None), |(target, level)| (target, Some(level)));
    let name = target.split(['[', ':']).next().unwrap_or_default();
    if name.starts_with("im") || name.starts_with("instant") {
        if !PARTS.contains(&name) {
            let near = nearest(name, PARTS.into_iter());
            return Err(format!("there is no part '{name}' of the program{near}"));
        }
    } else if said.is_none() && !target.contains('[') {
        let near = nearest(target, LEVELS.iter().map(|(name, _)| *name));
        return Err(format!(
            "'{directive}' is no level{near}; there are error, warn, info, debug, trace, off, and PART=LEVEL like \
             instantmirror_swarm=debug"
        ));
    }
    match said {
        None => Ok(format!("{target}=trace")),
        Some(said) => match level(said.trim()) {
            Some(level) => Ok(format!("{target}={level}")),
            None => {
                let near = nearest(said, LEVELS.iter().map(|(name, _)| *name));
                Err(format!("'{said}' in '{directive}' is no level{near}"))
            }
        },
    }
}

/// The likeliest correction, as the end of a sentence.
fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> String {
    let distances = known.map(|word| (strsim::damerau_levenshtein(&wrong.to_ascii_lowercase(), word), word));
    match distances.min() {
        Some((distance, word)) if distance <= word.len().max(3) / 2 => format!("; did you mean `{word}`?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_the_names_that_people_give_them() {
        for (text, filter) in [
            ("info", "info"),
            ("warning", "warn"),
            ("WARN", "warn"),
            ("off", "off"),
            ("info,instantmirror_swarm=debug", "instantmirror_swarm=debug,info"),
            ("instantmirror_http=trace", "instantmirror_http=trace,error"),
            ("info, hyper=Warning", "hyper=warn,info"),
            ("", "error"),
        ] {
            assert_eq!(log_filter(text).unwrap().to_string(), filter, "{text}");
        }
    }

    #[test]
    fn what_is_no_level_is_refused_with_the_nearest() {
        for (text, said) in [
            ("inof", "`info`"),
            ("verbose", "there are error"),
            ("info,instantmirror_htp=debug", "`instantmirror_http`"),
            ("hyper=loud", "'loud'"),
            ("info,hyper=wran", "`warn`"),
            ("in=fo=x", "no level"),
        ] {
            let error = log_filter(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
