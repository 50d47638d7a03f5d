//! Extended attributes: what scripts want to know of a file without an API.
//!
//! | name | of | value |
//! |---|---|---|
//! | `user.instantmirror.snapshot` | everything in a snapshot, and symlinks to one | its id |
//! | `user.instantmirror.object` | files | BLAKE3 of the content |
//! | `user.instantmirror.sha256` | files of which it is known | SHA-256 of the content |
//! | `user.instantmirror.cached` | files, where a cache can be asked | bytes of it that are here |
//! | `user.instantmirror.head` | the root, of one repository | the sequence number of its head |
//! | `user.instantmirror.current` | the same | the id of its current snapshot |

use std::fmt::Write as _;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use instantmirror_core::traits::blocking::may_block;
use instantmirror_core::{FileMeta, RepoName};

use super::layout::Outside;
use super::{Spot, Tree};
use crate::filesystem::{Errno, InodeId};
use crate::imfs::Shown;

const PREFIX: &str = "user.instantmirror.";
const NAMES: [&str; 6] = ["snapshot", "object", "sha256", "cached", "head", "current"];

impl Tree {
    pub(crate) fn xattr(&self, id: InodeId, name: &[u8]) -> Result<Bytes, Errno> {
        let what = name.strip_prefix(PREFIX.as_bytes()).ok_or(Errno::NODATA)?;
        let what = NAMES
            .iter()
            .find(|known| known.as_bytes() == what)
            .ok_or(Errno::NODATA)?;
        let spot = self.spot(id)?;
        self.value(id, &spot, what).ok_or(Errno::NODATA)
    }

    pub(crate) fn xattrs(&self, id: InodeId) -> Result<Vec<Bytes>, Errno> {
        let spot = self.spot(id)?;
        let is_there = |name: &str| match name {
            // A listing uses no file: programs list the attributes of all that they copy.
            "cached" => file_of(&spot).is_some() && self.options.objects.is_some(),
            name => self.value(id, &spot, name).is_some(),
        };
        let there = NAMES.iter().filter(|name| is_there(name));
        Ok(there.map(|name| format!("{PREFIX}{name}").into()).collect())
    }

    fn value(&self, id: InodeId, spot: &Spot, what: &str) -> Option<Bytes> {
        let file = file_of(spot);
        let text = match what {
            "snapshot" => match spot {
                Spot::Directory(place) | Spot::Entry(place, ..) => place.key.1.to_string(),
                Spot::Outside(Outside::Link(link)) => link.snapshot.to_string(),
                Spot::Outside(_) | Spot::Nothing => return None,
            },
            "object" => file?.object.to_string(),
            "sha256" => self.sha256(file?)?,
            "cached" => self.cached(file?)?.to_string(),
            "head" => {
                let state = self.catalogs().state(self.repository_of_root(id)?)?;
                state.head.as_ref()?.head().sequence.to_string()
            }
            "current" => self
                .catalogs()
                .state(self.repository_of_root(id)?)?
                .current?
                .to_string(),
            _ => return None,
        };
        Some(text.into())
    }

    /// The repository of the mount, for its root.
    fn repository_of_root(&self, id: InodeId) -> Option<&RepoName> {
        match &self.options.shown {
            Shown::Repository(name) | Shown::View(name, _) if id == InodeId::ROOT => Some(name),
            _ => None,
        }
    }

    fn sha256(&self, file: &FileMeta) -> Option<String> {
        let digest = self.options.annotations.as_ref()?.sha256(&file.object)?;
        let mut text = String::new();
        for byte in digest {
            let _ = write!(text, "{byte:02x}");
        }
        Some(text)
    }

    /// Bytes of a file that are here; `None` too if the cache cannot say so at once. It looks into memory and opens a file for
    /// that, which counts as a use.
    fn cached(&self, file: &FileMeta) -> Option<u64> {
        let objects = self.options.objects.as_ref()?;
        let mut opening = objects.open(&file.object);
        let mut polled = Poll::Pending;
        self.executor.enter(&mut || {
            let mut context = Context::from_waker(Waker::noop());
            polled = may_block(|| opening.as_mut().poll(&mut context));
        });
        match polled {
            Poll::Ready(Ok(Some(handle))) => Some(handle.present().len()),
            Poll::Ready(Ok(None)) => Some(0),
            Poll::Ready(Err(_)) | Poll::Pending => None,
        }
    }
}

fn file_of(spot: &Spot) -> Option<&FileMeta> {
    match spot {
        Spot::Entry(_, _, entry) => entry.meta.as_file(),
        _ => None,
    }
}
