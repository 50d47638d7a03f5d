//! Real input and real clients for the end-to-end tests.
//!
//! The decision behind this crate: what we serve is judged by the programs that people use, not by a client of our own
//! making. So a Debian archive is built from real packages and read by apt, a yum repository is built by rpmbuild and
//! read by dnf, a tree of real and of nasty files is fetched by wget and aria2 and compared byte for byte.
//!
//! It knows nothing of our programs: everything takes a folder or a base URL. It never touches the machine's own
//! package databases, caches or configuration; every client works in a folder of its own, without proxies, bounded in
//! time, and every process that it starts is stopped by its process group.
//!
//! | subject | input | client |
//! |---|---|---|
//! | Debian | [`debian::Archive`] | [`debian::AptClient`] |
//! | yum | [`yum::Repository`] | [`yum::DnfClient`] |
//! | trees of files | [`tree::TreeSpec`] | [`fetch::wget_tree`], [`fetch::aria2`], [`http::get`] |
//! | pages | | [`browser::Browser`] |
//! | result | | [`compare::Comparison`] |
//! | our programs | [`process::binary`] | [`process::Daemon`] |
//!
//! ```
//! use instantmirror_testkit::{compare::Comparison, process::TestDir, tree::TreeSpec};
//!
//! let dir = TestDir::new("example")?;
//! TreeSpec::small().build(&dir.path().join("a"))?;
//! TreeSpec::small().build(&dir.path().join("b"))?;
//! let differences = Comparison::exact().differences(&dir.path().join("a"), &dir.path().join("b"))?;
//! assert_eq!(differences, Vec::<String>::new());
//! # Ok::<(), anyhow::Error>(())
//! ```

pub mod browser;
pub mod command;
pub mod compare;
pub mod debian;
pub mod fetch;
pub mod http;
pub mod process;
pub mod tree;
pub mod yum;
