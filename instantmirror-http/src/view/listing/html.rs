//! The HTML form of a listing: one page without scripts, dark or light as the reader has it.
//!
//! Sorting is done by forms, not links: a reader clicks the same, and a recursive download does not fetch
//! every directory eight times. Order and spelling of the columns are those of Apache and nginx, which lftp and
//! its like take apart: name, `14-Nov-2023 22:13`, size in bytes.

use std::fmt::Write as _;

use super::{Column, Order, Row, RowKind, Subject, Unsorted};
use crate::message::request::encode_path_into;

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#d8dce2;--soft:#5c6570;--link:#0b57b0;--hover:#f2f5f9}\
@media(prefers-color-scheme:dark){:root{--line:#343a42;--soft:#9aa4af;--link:#82b8ff;--hover:#20252c}}\
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:72rem;padding:1.5rem}\
h1{font-size:1.15rem;font-weight:600;overflow-wrap:anywhere}a{color:var(--link);text-decoration:none}\
a:hover{text-decoration:underline}table{border-collapse:collapse;width:100%}\
th{text-align:left;border-bottom:1px solid var(--line);padding:.2rem .6rem}\
td{padding:.15rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}\
tr:hover td{background:var(--hover)}td:first-child,td.t{overflow-wrap:anywhere}\
td[data-size]{font-size:0}td[data-size]::after{content:attr(data-size);font-size:15px}\
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.d{white-space:nowrap}\
.s,td.d,td.t,footer{color:var(--soft)}form{display:inline}\
button{font:inherit;font-weight:600;color:inherit;background:none;border:0;padding:0;cursor:pointer}\
button:hover{text-decoration:underline}footer{margin-top:1rem;font-size:.9em;overflow-wrap:anywhere}\
@media(max-width:40rem){.t{display:none}td,th{padding:.15rem .3rem}}";

/// So many torrents of a directory are shown without a click.
const TORRENTS_SHOWN: usize = 5;

pub(super) fn head(out: &mut String, subject: &Subject, order: Order, unsorted: Option<Unsorted>) {
    out.push_str("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    out.push_str("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>Index of /");
    escape(out, subject.path.as_str());
    out.push_str(if subject.path.is_root() {
        "</title>"
    } else {
        "/</title>"
    });
    out.push_str("<style>");
    out.push_str(STYLE);
    out.push_str("</style></head><body>\n<h1>");
    breadcrumbs(out, subject);
    out.push_str("</h1>\n");
    torrents(out, subject);
    let _ = match unsorted {
        None => Ok(()),
        Some(Unsorted::TooLarge) => writeln!(
            out,
            "<p class=\"s\">More than {} entries: shown in order of name.</p>",
            super::SORT_ENTRIES_MAX
        ),
        Some(Unsorted::Busy) => writeln!(
            out,
            "<p class=\"s\">Too many ask for sorted pages now: shown in order of name.</p>"
        ),
    };
    out.push_str("<table><thead><tr>");
    let columns = [
        (Column::Name, "N", "Name", ""),
        (Column::Date, "M", "Modified (UTC)", "d"),
        (Column::Size, "S", "Size", "n"),
        (Column::Type, "T", "Type", "t"),
    ];
    for (column, key, title, class) in columns {
        heading(out, column, key, title, class, order);
    }
    out.push_str("</tr></thead><tbody>\n");
    if !subject.path.is_root() {
        out.push_str(
            "<tr><td colspan=\"4\"><a href=\"../\">../</a> <span class=\"s\">parent directory</span></td></tr>\n",
        );
    }
}

/// Links to the torrents of a directory; folded up if there are many.
fn torrents(out: &mut String, subject: &Subject) {
    let all = &subject.torrents;
    if all.is_empty() {
        return;
    }
    let is_long = all.len() > TORRENTS_SHOWN;
    if is_long {
        let _ = write!(out, "<details><summary>{} torrents</summary>", all.len());
    }
    out.push_str("<ul class=\"s\">\n");
    for torrent in all {
        out.push_str("<li><a href=\"");
        // Relative, so that it leads there from behind a proxy too that shows this server below a path of its own.
        let from_root = torrent.url.strip_prefix('/').filter(|rest| !rest.starts_with('/'));
        if from_root.is_some() {
            subject.path.components().for_each(|_| out.push_str("../"));
        }
        escape(out, from_root.unwrap_or(&torrent.url));
        out.push_str("\">");
        escape(out, &torrent.file_name);
        out.push_str("</a> · <a href=\"");
        escape(out, &torrent.magnet);
        let _ = writeln!(out, "\">magnet</a> · {}</li>", size_text(torrent.bytes));
    }
    out.push_str(if is_long { "</ul></details>\n" } else { "</ul>\n" });
}

fn heading(out: &mut String, column: Column, key: &str, title: &str, class: &str, order: Order) {
    let here = order.column == column;
    let (next, mark, sorted) = match (here, order.descending) {
        (true, false) => ("D", " ↑", " aria-sort=\"ascending\""),
        (true, true) => ("A", " ↓", " aria-sort=\"descending\""),
        (false, _) => ("A", "", ""),
    };
    let _ = write!(
        out,
        "<th class=\"{class}\"{sorted}><form method=\"get\"><input type=\"hidden\" name=\"O\" value=\"{next}\">\
         <button name=\"C\" value=\"{key}\" title=\"sort\">{title}{mark}</button></form></th>"
    );
}

/// Every directory on the way, as links relative to this one.
fn breadcrumbs(out: &mut String, subject: &Subject) {
    let names: Vec<&str> = subject.path.components().collect();
    let up = |out: &mut String, levels: usize| {
        out.push_str("<a href=\"");
        out.push_str(if levels == 0 { "./" } else { "" });
        (0..levels).for_each(|_| out.push_str("../"));
        out.push_str("\">");
    };
    up(out, names.len());
    out.push_str("/</a>");
    for (i, name) in names.iter().enumerate() {
        up(out, names.len() - 1 - i);
        escape(out, name);
        out.push_str("</a>/");
    }
}

pub(super) fn row(out: &mut String, row: &Row) {
    let slash = row.slash();
    out.push_str("<tr><td><a href=\"");
    encode_path_into(out, &row.name);
    out.push_str(slash);
    out.push_str("\">");
    escape(out, &row.name);
    out.push_str(slash);
    out.push_str("</a></td> <td class=\"d\">");
    if let Some(date) = row.mtime.and_then(date_text) {
        out.push_str(&date);
    }
    out.push_str("</td> ");
    size_cell(out, row);
    out.push_str("<td class=\"t\">");
    escape(out, row.type_text());
    if let RowKind::Symlink { target, .. } = &row.kind {
        out.push_str(" → ");
        escape(out, target);
    }
    out.push_str("</td></tr>\n");
}

/// A size: to the byte for programs, and as the style shows it for people.
fn size_cell(out: &mut String, row: &Row) {
    let Some(size) = row.size() else {
        out.push_str("<td class=\"n\">-</td>");
        return;
    };
    let _ = match row.kind {
        RowKind::Directory { files: Some(files), .. } => {
            write!(out, "<td class=\"n s\" title=\"{files} files, {size} bytes\"")
        }
        _ => write!(out, "<td class=\"n\" title=\"{size} bytes\""),
    };
    let _ = write!(out, " data-size=\"{}\">{size}</td>", size_text(size));
}

pub(super) fn end(out: &mut String, subject: &Subject, count: u64) {
    let plural = if count == 1 { "entry" } else { "entries" };
    let _ = write!(out, "</tbody></table>\n<footer>{count} {plural}");
    if let Some((repository, snapshot)) = &subject.snapshot {
        let _ = write!(out, " · snapshot {snapshot} of {repository}");
    }
    out.push_str(" · InstantMirror</footer></body></html>\n");
}

/// Appends `text` so that it means itself in HTML text and in a quoted attribute. Characters that turn the
/// direction of writing are shown as their code: a name must not look like another one.
fn escape(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(character));
            }
            _ => out.push(character),
        }
    }
}

/// A size as people read it: three digits and a binary unit.
fn size_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut tenths, mut unit) = (u128::from(bytes) * 10 / 1024, 0);
    while tenths >= 10 * 1024 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if tenths < 1000 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{} {}", tenths / 10, UNITS[unit])
    }
}

fn date_text(seconds: i64) -> Option<String> {
    let time = jiff::Timestamp::from_second(seconds).ok()?;
    Some(time.strftime("%d-%b-%Y %H:%M").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (102_399, "99.9 KiB"),
            (102_400, "100 KiB"),
            (1 << 20, "1.0 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size_text(bytes), text);
        }
    }

    #[test]
    fn dates_are_readable() {
        assert_eq!(date_text(1_700_000_000).as_deref(), Some("14-Nov-2023 22:13"));
        assert_eq!(date_text(i64::MAX), None);
    }

    #[test]
    fn text_means_itself() {
        let mut out = String::new();
        escape(&mut out, "<a href=\"x\">'&\u{202e}é");
        assert_eq!(out, "&lt;a href=&quot;x&quot;&gt;&#39;&amp;\\u{202e}é");
    }
}
