//! `fullfiletimelist-MODULE`: the sections that Fedora's `create-filelist` writes.

use std::io::Write;

use instantmirror_core::Kind;

use super::{DIRECTORY_BYTES, ExportError, Listing, Sha256Of, walk};

/// Files whose checksums are in the list: clients find out by them that a repository has changed.
const CHECKED: &str = "repomd.xml";

pub(super) fn write(listing: &Listing<'_>, sha256: &Sha256Of<'_>, out: &mut dyn Write) -> Result<(), ExportError> {
    out.write_all(b"[Version]\n2\n\n[Files]\n")?;
    let mut checksums = Vec::new();
    walk(listing, &mut |path, entries| {
        let prefix = if path.is_root() {
            String::new()
        } else {
            format!("{path}/")
        };
        for entry in entries {
            let (kind, size) = match &entry.meta.kind {
                Kind::File(file) => ('f', file.size),
                Kind::Directory(_) => ('d', DIRECTORY_BYTES),
                Kind::Symlink(target) => ('l', target.len() as u64),
            };
            writeln!(out, "{}\t{kind}\t{size}\t{prefix}{}", entry.meta.mtime, entry.name)?;
            if let Some(file) = entry.meta.as_file().filter(|_| entry.name.as_str() == CHECKED)
                && let Some(sum) = sha256(&file.object)?
            {
                let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
                checksums.push(format!("{hex}  {prefix}{}\n", entry.name));
            }
        }
        Ok(())
    })?;
    out.write_all(b"\n[Checksums SHA256]\n")?;
    checksums.iter().try_for_each(|line| out.write_all(line.as_bytes()))?;
    out.write_all(b"\n[End]\n")?;
    Ok(())
}
