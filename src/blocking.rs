//! The threads on which disks are read and written: tokio's blocking pool.

use instantmirror_core::traits::blocking::Threads;
use tokio::runtime::Handle;

/// The blocking pool of the runtime on which a call is polled, so that background work stays on background threads. Outside of
/// any runtime the calling thread itself: there it holds up nobody else.
#[must_use]
pub fn threads() -> Threads {
    Threads::new(|work| match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    })
}
