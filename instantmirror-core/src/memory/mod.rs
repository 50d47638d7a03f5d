//! Implementations of the traits that keep everything in memory: for tests, examples and small embedders.

mod cache;
mod catalogs;
mod nothing;
mod storage;
mod store;
mod swarm;
mod transport;

pub use cache::MemoryCache;
pub use catalogs::{MemoryCatalogs, PublishError};
pub use nothing::Nothing;
pub use storage::MemoryStorage;
pub use store::MemoryStore;
pub use swarm::MemorySwarm;
pub use transport::MemoryTransport;
