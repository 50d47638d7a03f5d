//! The JSON form of a listing: one object, one entry a line.

use instantmirror_core::Timestamp;
use serde_json::json;

use super::{LinkEnd, Row, RowKind, Subject};
use crate::message::request::encode_path;

pub(super) fn head(out: &mut String, subject: &Subject) {
    let path = if subject.path.is_root() {
        "/".to_owned()
    } else {
        format!("/{}/", subject.path)
    };
    out.push_str("{\"path\":");
    out.push_str(&json!(path).to_string());
    if let Some((repository, snapshot)) = &subject.snapshot {
        out.push_str(&format!(
            ",\"repository\":{},\"snapshot\":{}",
            json!(repository.as_str()),
            json!(snapshot.to_string())
        ));
    }
    out.push_str(",\"entries\":[");
}

pub(super) fn row(out: &mut String, row: &Row, first: bool) {
    out.push_str(if first { "\n" } else { ",\n" });
    let mut value = json!({"name": row.name, "href": format!("{}{}", encode_path(&row.name), row.slash())});
    match &row.kind {
        RowKind::Directory { files, bytes } => {
            value["type"] = json!("directory");
            if let Some((files, bytes)) = files.zip(*bytes) {
                value["files"] = json!(files);
                value["bytes"] = json!(bytes);
            }
        }
        RowKind::File { size, object } => {
            value["type"] = json!("file");
            value["size"] = json!(size);
            value["object"] = json!(object.to_string());
        }
        RowKind::Symlink { target, end } => {
            value["type"] = json!("symlink");
            value["target"] = json!(target);
            match end {
                LinkEnd::Directory => value["leads_to"] = json!("directory"),
                LinkEnd::File(size) => {
                    value["leads_to"] = json!("file");
                    value["size"] = json!(size);
                }
                LinkEnd::Nowhere => {}
            }
        }
    }
    if let Some(mtime) = row.mtime {
        value["mtime"] = json!(mtime);
        value["modified"] = json!(Timestamp::from_millis(mtime.saturating_mul(1000)).to_string());
    }
    out.push_str(&value.to_string());
}

pub(super) fn end(out: &mut String) {
    out.push_str("\n]}\n");
}
