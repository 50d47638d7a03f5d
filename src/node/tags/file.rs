//! The file of the local tags: a first line that states its hash, then one line `REPO TAG UUID` per tag.

use std::path::Path;

use instantmirror_store::StoreError;
use instantmirror_store::disk::{Disk, read_file, write_atomically};

use super::TagList;

const FILE: &str = "local-tags";
const PREFIX: &str = "instantmirror local tags 1 ";
const BYTES_MAX: u64 = 64 << 20;
const ADVICE: &str = "restore it; without it the node starts and its local tags are gone";

pub(super) fn load(disk: &dyn Disk) -> Result<TagList, StoreError> {
    let path = Path::new(FILE);
    let content = match read_file(disk, path, BYTES_MAX) {
        Err(error) if error.is_not_found() => return Ok(TagList::new()),
        content => content?,
    };
    parse(&content).ok_or_else(|| StoreError::damaged(path, "it is not what its first line states", ADVICE))
}

fn parse(content: &[u8]) -> Option<TagList> {
    let (first, rest) = std::str::from_utf8(content).ok()?.split_once('\n')?;
    if first.strip_prefix(PREFIX)? != blake3::hash(rest.as_bytes()).to_hex().as_str() {
        return None;
    }
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (repository, tag) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(((repository, tag), words.next()?.parse().ok()?))
    };
    rest.lines().map(line).collect()
}

fn format(tags: &TagList) -> String {
    let lines = tags
        .iter()
        .map(|((repository, tag), id)| format!("{repository} {tag} {id}\n"));
    let lines: String = lines.collect();
    format!("{PREFIX}{}\n{lines}", blake3::hash(lines.as_bytes()).to_hex())
}

pub(super) fn save(disk: &dyn Disk, tags: &TagList) -> Result<(), StoreError> {
    write_atomically(disk, Path::new(FILE), format(tags).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_as_they_were_written_and_damage_is_noticed() {
        let id = instantmirror_core::SnapshotId::from_random([7; 16]);
        let tags = TagList::from([(("r".parse().unwrap(), "gold".parse().unwrap()), id)]);
        let text = format(&tags);
        assert_eq!(parse(text.as_bytes()), Some(tags));
        assert_eq!(parse(format(&TagList::new()).as_bytes()), Some(TagList::new()));
        assert_eq!(parse(text.replace("gold", "golf").as_bytes()), None);
        assert_eq!(parse(b""), None);
    }
}
