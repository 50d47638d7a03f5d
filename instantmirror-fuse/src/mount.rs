//! [`MountedImfs`]: an [`Imfs`] in its place in the directory tree, served.

use std::sync::Arc;

use crate::filesystem::FileSystem;
use crate::imfs::{Imfs, ImfsStatus};
use crate::kernel::mount::{MountError, MountOptions};
use crate::session::{Session, SessionError, SessionOptions};

/// Why a file system is not mounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImfsMountError {
    /// The mount was not made.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// It was made, and cannot be served.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// A mount that is served. Unmounts when it is dropped.
pub struct MountedImfs {
    session: Session,
    imfs: Arc<Imfs>,
}

impl Imfs {
    /// Mounts and serves it, on threads of its own.
    ///
    /// # Errors
    /// [`ImfsMountError`]; nothing is mounted then.
    pub fn mount(self, at: MountOptions, options: SessionOptions) -> Result<MountedImfs, ImfsMountError> {
        let imfs = Arc::new(self);
        let file_system: Arc<dyn FileSystem> = Arc::<Self>::clone(&imfs);
        let session = Session::serve(at.mount()?, file_system, options)?;
        Ok(MountedImfs { session, imfs })
    }
}

impl MountedImfs {
    /// The kernel's side: where it is mounted, counters, and its end.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Its counters.
    #[must_use]
    pub fn status(&self) -> ImfsStatus {
        self.imfs.status()
    }
}
