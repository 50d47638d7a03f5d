//! imtracker: who has what, who is in sync, and whom to ask. This version holds nothing but this description.
//!
//! Key decision: **a tracker moves no data and is never believed about content.** What it will hand out (peers,
//! mirror lists, metalinks, a head that it has seen) is a hint or is signed by the master, so a lying or absent tracker
//! costs time and never a wrong byte. From core it will use
//!
//! * [`SignedHead`] and [`Snapshot`], to tell which mirrors are in sync with what the master released;
//! * [`NodeSource`], to list a snapshot's files with their sizes and hashes in metalinks;
//! * [`Upstream`], which it may implement for nodes that ask it for heads and catalogs instead of a master.
//!
//! [`SignedHead`]: instantmirror_core::SignedHead
//! [`Snapshot`]: instantmirror_core::Snapshot
//! [`NodeSource`]: instantmirror_core::catalog::NodeSource
//! [`Upstream`]: instantmirror_core::traits::Upstream

#![forbid(unsafe_code)]
