//! A trace file, as every Debian mirror has one in `project/trace/`: a date that people and `mirmon` read, then fields.

use std::io::Write;

use instantmirror_core::Snapshot;

use super::{Civil, ExportError};

pub(super) fn write(snapshot: &Snapshot, out: &mut dyn Write) -> Result<(), ExportError> {
    let created = Civil::new(snapshot.created.as_millis().div_euclid(1000));
    let host = rustix::system::uname();
    writeln!(out, "{}", created.unix())?;
    writeln!(out, "Date: {}", created.mail())?;
    writeln!(out, "Creator: InstantMirror {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "Running on host: {}", host.nodename().to_string_lossy())?;
    writeln!(out, "Repository: {}", snapshot.repository)?;
    writeln!(out, "Snapshot: {}", snapshot.id)?;
    writeln!(out, "Total bytes: {}", snapshot.root.bytes)?;
    writeln!(out, "Total files: {}", snapshot.root.files)?;
    Ok(())
}
