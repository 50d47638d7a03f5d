//! Words of strangers, made fit to be shown and logged.

/// As much of the text as is kept: no control characters, what is no UTF-8 replaced, at most so many bytes.
pub(crate) fn shown(bytes: &[u8], bytes_max: usize) -> String {
    let text = String::from_utf8_lossy(bytes.get(..bytes_max).unwrap_or(bytes));
    let mut text: String = text.chars().filter(|c| !c.is_control()).collect();
    // What replaces broken characters is longer than they are.
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}
