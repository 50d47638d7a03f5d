//! Implementations of the traits that keep everything in memory: for tests, examples and small embedders.

mod cache;
mod nothing;
mod store;
mod transport;

pub use cache::MemoryCache;
pub use nothing::Nothing;
pub use store::MemoryStore;
pub use transport::MemoryTransport;
