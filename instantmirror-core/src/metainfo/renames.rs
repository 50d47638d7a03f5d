//! Names that torrent clients change before they write a file, and then ask web seeds for by the changed name.
//!
//! Measured with libtorrent 2.0.8 and Transmission 3.00; aria2 1.36 changes none of them.

/// libtorrent cuts longer names, in bytes, and puts the extension behind what is left.
const LIBTORRENT_BYTES_MAX: usize = 240;
/// An extension that it keeps has at most so many bytes, with its dot.
const EXTENSION_BYTES_MAX: usize = 10;
/// libtorrent leaves these out: the backslash, and what marks or turns the direction of a text.
const LIBTORRENT_DROPS: [char; 8] = [
    '\\', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}',
];
/// Transmission puts `_` in place of these.
const TRANSMISSION_REPLACES: &str = "\"*/:<>?\\|";
/// Devices of Windows, behind which it puts `_`.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];
/// Devices that have a number from 1 to 9.
const NUMBERED: [&str; 2] = ["com", "lpt"];

/// What clients make of the name of a file or directory; empty if all of them leave it as it is.
///
/// ```
/// use instantmirror_core::metainfo::client_names;
/// assert!(client_names("plain name_1.0~rc2.deb").is_empty());
/// assert_eq!(client_names(r"a\b"), ["ab", "a_b"]);
/// assert_eq!(client_names(" what? "), ["what_"]);
/// ```
#[must_use]
pub fn client_names(name: &str) -> Vec<String> {
    let mut names = vec![by_libtorrent(name), by_transmission(name)];
    names.retain(|changed| changed != name && !changed.is_empty());
    names.dedup();
    names
}

fn by_libtorrent(name: &str) -> String {
    let kept = name.replace(LIBTORRENT_DROPS, "");
    if kept.len() <= LIBTORRENT_BYTES_MAX {
        return kept;
    }
    let cut = kept.floor_char_boundary(LIBTORRENT_BYTES_MAX);
    let extension = kept.rfind('.').and_then(|dot| kept.get(dot..));
    let extension = extension.filter(|extension| extension.len() <= EXTENSION_BYTES_MAX);
    format!(
        "{}{}",
        kept.get(..cut).unwrap_or_default(),
        extension.unwrap_or_default()
    )
}

fn by_transmission(name: &str) -> String {
    let replaced = |c: char| if TRANSMISSION_REPLACES.contains(c) { '_' } else { c };
    let replaced: String = name.chars().map(replaced).collect();
    let trimmed = replaced.trim_start_matches(' ').trim_end_matches([' ', '.']);
    let (stem, rest) = trimmed.split_at(trimmed.find('.').unwrap_or(trimmed.len()));
    if is_device(stem) {
        return format!("{stem}_{rest}");
    }
    trimmed.to_owned()
}

fn is_device(stem: &str) -> bool {
    let lower = stem.to_ascii_lowercase();
    let numbered = NUMBERED.iter().find_map(|device| lower.strip_prefix(device));
    let is_numbered = numbered.is_some_and(|number| number.len() == 1 && ("1"..="9").contains(&number));
    is_numbered || DEVICES.contains(&lower.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_changed_as_the_clients_were_seen_to_change_them() {
        let long = |head: usize, tail: &str| format!("{}{tail}", "M".repeat(head));
        for (name, libtorrent, transmission) in [
            ("q?x", "q?x", "q_x"),
            ("c:d", "c:d", "c_d"),
            ("\"q\"", "\"q\"", "_q_"),
            (" lead", " lead", "lead"),
            ("trail ", "trail ", "trail"),
            ("dot.", "dot.", "dot"),
            (" .x. ", " .x. ", ".x"),
            (r"a\\b", "ab", "a__b"),
            (r"x\\", "x", "x__"),
            ("a\u{200e}b\u{202e}", "ab", "a\u{200e}b\u{202e}"),
            ("a\u{2066}b", "a\u{2066}b", "a\u{2066}b"),
            ("CON", "CON", "CON_"),
            ("aux.", "aux.", "aux_"),
            ("lpt1.txt", "lpt1.txt", "lpt1_.txt"),
            ("lpt0", "lpt0", "lpt0"),
            ("..dots", "..dots", "..dots"),
            (".hid", ".hid", ".hid"),
            (&long(236, ".deb"), &long(236, ".deb"), &long(236, ".deb")),
            (&long(246, ".deb"), &long(240, ".deb"), &long(246, ".deb")),
            (
                &long(240, ".tar.bz2.sig"),
                &long(240, ".sig"),
                &long(240, ".tar.bz2.sig"),
            ),
            (&"é".repeat(125), &"é".repeat(120), &"é".repeat(125)),
        ] {
            assert_eq!(
                (by_libtorrent(name), by_transmission(name)),
                (libtorrent.to_owned(), transmission.to_owned())
            );
        }
        assert!(client_names("...").is_empty(), "nothing is left of it");
    }
}
