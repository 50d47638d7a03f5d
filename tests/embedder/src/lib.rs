//! Parts that somebody outside of the project could have written, simple and whole: a cache, a snapshot store, a storage of objects,
//! a scheduler and a transport. Each passes core's suite; the tests build a master and a node of them.
//!
//! Invariant: nothing here uses more of the product than its public traits and types.

pub mod cache;
pub mod scheduler;
pub mod storage;
pub mod store;
pub mod transport;

pub use cache::ShelfCache;
pub use scheduler::LineScheduler;
pub use storage::FolderStorage;
pub use store::ListStore;
pub use transport::TreeTransport;
