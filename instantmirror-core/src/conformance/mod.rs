//! What every implementation of a core trait does, as tests that anybody can run.
//!
//! One suite per trait, one public function per behaviour, named for it, and one macro per suite that stamps a
//! `#[test]` of that name for each behaviour. The suites use no runtime: [`block_on`] is all that polls, which proves
//! that an implementation needs none (one that does brings it along inside its [`Subject`]). Nothing here sleeps.
//!
//! ```
//! # #[cfg(test)]
//! mod my_cache {
//!     use instantmirror_core::conformance::Subject;
//!     use instantmirror_core::memory::MemoryCache;
//!     instantmirror_core::object_cache_conformance!(|max_bytes| Subject::new(MemoryCache::new(max_bytes)));
//! }
//! ```

// These functions are tests: a behaviour that is missing is told by a panic, as in any test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// A list of one range is meant as that where ranges are compared.
#![allow(clippy::single_range_in_vec_init)]

pub mod annotations;
pub mod catalogs;
pub mod expiry;
mod faulty;
pub mod inventory;
pub mod node_api;
pub mod object_cache;
pub mod object_source;
pub mod object_storage;
pub mod objects;
pub mod peer_transport;
pub mod pins;
pub mod quota;
pub mod scheduler;
pub mod snapshot_store;
pub mod swarm;
pub mod sweeper;
pub mod upstream;

use std::any::Any;
use std::fmt::Debug;
use std::ops::{Deref, Range};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use bytes::Bytes;

use crate::outboard::{ObjectHasher, Outboard};
use crate::traits::{ObjectCache, ObjectFill, ObjectHandle};
use crate::{CacheError, ObjectId};

pub use faulty::{Call, FaultyTransport};

/// What a factory makes: the implementation under test, and whatever must live as long (a directory, a server).
#[derive(Debug)]
pub struct Subject<T> {
    // Dropped in this order: the implementation before the ground that it stands on.
    subject: Arc<T>,
    _ground: Box<dyn Ground>,
}

trait Ground: Any + Debug {}
impl<T: Any + Debug> Ground for T {}

impl<T> Subject<T> {
    /// An implementation that stands by itself.
    pub fn new(subject: T) -> Self {
        Self::on(subject, ())
    }

    /// An implementation that needs `ground` to exist.
    pub fn on(subject: T, ground: impl Any + Debug) -> Self {
        Self {
            subject: Arc::new(subject),
            _ground: Box::new(ground),
        }
    }
}

impl<T> Deref for Subject<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.subject
    }
}

/// How often [`block_on`] waits a second for a wake-up before it takes the future for stuck.
const PATIENCE: u32 = 60;

struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Polls a future to its end on this thread. No runtime, no timers.
///
/// # Panics
/// If nothing wakes the future for a minute.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let unpark = Arc::new(Unpark {
        thread: thread::current(),
        woken: AtomicBool::new(false),
    });
    let waker = Waker::from(Arc::clone(&unpark));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        let mut waited = 0;
        while !unpark.woken.swap(false, Ordering::Acquire) {
            assert!(waited < PATIENCE, "nothing has woken the future for {PATIENCE} s");
            thread::park_timeout(Duration::from_secs(1));
            waited += 1;
        }
    }
}

/// [`ObjectHandle::read`], waited for on this thread.
pub trait ReadNow {
    /// Reads exactly `range`.
    ///
    /// # Errors
    /// As [`ObjectHandle::read`].
    fn read_now(&self, range: Range<u64>) -> Result<Bytes, CacheError>;
}

impl<H: ObjectHandle + ?Sized> ReadNow for H {
    fn read_now(&self, range: Range<u64>) -> Result<Bytes, CacheError> {
        block_on(self.read(range))
    }
}

/// [`ObjectFill::set_outboard`] and [`ObjectFill::write`], waited for on this thread.
pub trait WriteNow {
    /// Hands the outboard in.
    ///
    /// # Errors
    /// As [`ObjectFill::set_outboard`].
    fn set_outboard_now(&self, outboard: Outboard) -> Result<(), CacheError>;

    /// Writes whole groups.
    ///
    /// # Errors
    /// As [`ObjectFill::write`].
    fn write_now(&self, offset: u64, data: &[u8]) -> Result<(), CacheError>;
}

impl<F: ObjectFill + ?Sized> WriteNow for F {
    fn set_outboard_now(&self, outboard: Outboard) -> Result<(), CacheError> {
        block_on(self.set_outboard(outboard))
    }

    fn write_now(&self, offset: u64, data: &[u8]) -> Result<(), CacheError> {
        block_on(self.write(offset, Bytes::copy_from_slice(data)))
    }
}

/// Bytes that look like no other content: every group of every `seed` differs.
#[must_use]
pub fn content(seed: u8, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33).to_le_bytes()
    };
    let mut data: Vec<u8> = std::iter::repeat_with(&mut next)
        .flatten()
        .take(len.min(1 << 16))
        .collect();
    while data.len() < len {
        let from = data.len() - (1 << 16).min(data.len());
        let to = (from + len - data.len()).min(data.len());
        data.extend_from_within(from..to);
        let at = from + (1 << 16);
        data[at] = data[at].wrapping_add(1);
    }
    data
}

/// The outboard of these bytes.
#[must_use]
pub fn outboard_of(data: &[u8]) -> Outboard {
    let mut hasher = ObjectHasher::new();
    hasher.update(data);
    hasher.finish()
}

/// The cache with these objects in it, whole.
///
/// # Panics
/// If it does not take them.
pub fn fill_with<C: ObjectCache>(cache: C, objects: &[Bytes]) -> C {
    objects.iter().for_each(|data| add(&cache, data).unwrap());
    cache
}

/// Puts an object into a cache, whole.
///
/// # Errors
/// As [`ObjectCache::fill`] and the methods of its [`ObjectFill`].
pub fn add(cache: &dyn ObjectCache, data: &Bytes) -> Result<(), CacheError> {
    block_on(async {
        let fill = cache.fill(&ObjectId::of(data), data.len() as u64).await?;
        fill.set_outboard(outboard_of(data)).await?;
        fill.write(0, data.clone()).await?;
        fill.finish().await
    })
}

/// Stamps one `#[test]` per behaviour. Used by the macros of the suites.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ($suite:ident, $factory:expr, $($behaviour:ident)*) => {
        $(
            #[test]
            fn $behaviour() {
                $crate::conformance::$suite::$behaviour(&$factory);
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_never_repeats_a_group() {
        let (data, other) = (content(1, 5 << 16), content(2, 1 << 16));
        let groups: std::collections::HashSet<_> = data.chunks(1 << 16).chain([&*other]).collect();
        assert_eq!((data.len(), groups.len()), (5 << 16, 6));
        assert_eq!(content(3, 70_001).len(), 70_001);
    }

    /// A behaviour that no macro names would never run.
    #[test]
    fn every_behaviour_is_stamped() {
        for (suite, text) in [
            (
                "object_cache",
                concat!(
                    include_str!("object_cache/mod.rs"),
                    include_str!("object_cache/room.rs")
                ),
            ),
            ("annotations", include_str!("annotations.rs")),
            ("catalogs", include_str!("catalogs.rs")),
            ("expiry", include_str!("expiry.rs")),
            ("inventory", include_str!("inventory.rs")),
            ("pins", include_str!("pins.rs")),
            ("quota", include_str!("quota.rs")),
            ("sweeper", include_str!("sweeper.rs")),
            ("node_api", include_str!("node_api.rs")),
            ("object_source", include_str!("object_source.rs")),
            ("objects", include_str!("objects.rs")),
            ("swarm", include_str!("swarm.rs")),
            ("upstream", include_str!("upstream.rs")),
            ("peer_transport", include_str!("peer_transport.rs")),
            (
                "scheduler",
                concat!(include_str!("scheduler/mod.rs"), include_str!("scheduler/random.rs")),
            ),
            ("snapshot_store", include_str!("snapshot_store.rs")),
        ] {
            let (list, functions) = text.split_once("// end of the list").unwrap();
            let named: Vec<&str> = list.split_whitespace().collect();
            let functions: Vec<&str> = functions
                .lines()
                .filter_map(|line| line.strip_prefix("pub fn ")?.split(['<', '(']).next())
                .collect();
            assert!(functions.len() >= 4, "{suite}: {functions:?}");
            for function in functions {
                assert!(
                    named.contains(&function),
                    "{suite}: {function} is not in the list of its macro"
                );
            }
        }
    }
}
