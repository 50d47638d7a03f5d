//! A path is accepted exactly if a simple reading of the rules accepts it, and only in its one spelling.
#![no_main]

use instantmirror_core::name::{NAME_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX};
use instantmirror_core::view::Place;
use instantmirror_core::{Name, RepoPath};
use libfuzzer_sys::fuzz_target;

fn is_name(text: &str) -> bool {
    let dots = text == "." || text == "..";
    !text.is_empty() && !dots && text.len() <= NAME_BYTES_MAX && !text.chars().any(|c| c == '/' || c.is_control())
}

fn is_path(text: &str) -> bool {
    text.is_empty()
        || (text.len() <= PATH_BYTES_MAX && text.split('/').all(is_name) && text.split('/').count() <= PATH_DEPTH_MAX)
}

fuzz_target!(|data: &[u8]| {
    let text = std::str::from_utf8(data).ok();
    assert_eq!(Name::new(data).is_ok(), text.is_some_and(is_name));
    let path = RepoPath::new(data);
    assert_eq!(path.is_ok(), text.is_some_and(is_path));
    let Ok(path) = path else { return };
    assert_eq!(path.as_str().as_bytes(), data, "never normalised");
    let names: Vec<_> = path
        .components()
        .map(|name| Name::new(name).expect("a part of a path is a name"))
        .collect();
    let joined = names.iter().try_fold(RepoPath::ROOT, |parent, name| parent.join(name));
    assert_eq!(joined.as_ref(), Ok(&path));
    if let Some((parent, last)) = path.split_last() {
        assert_eq!(parent.join(&Name::new(last).expect("a name")), Ok(path.clone()));
    }
    if let Some(Place::Tree(view, below)) = Place::route(&path) {
        let view = match view.to_string().as_str() {
            "current" => "snap/current".to_owned(),
            other => other.to_owned(),
        };
        let again = if below.is_root() {
            view
        } else {
            format!("{view}/{below}")
        };
        assert_eq!(again, path.as_str(), "a place has one path");
    }
});
