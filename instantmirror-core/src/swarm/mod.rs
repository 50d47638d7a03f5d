//! What a BitTorrent swarm decides, as pure code: which piece to ask whom for ([`picker`]), whom to serve ([`choker`]),
//! whom to believe no longer ([`blame`]), and how a master sends each piece about once ([`copies`]).
//!
//! No sockets, no clock, no bytes: drivers pass in what happened and when, and get told what to do. Peers are named by
//! [`PeerKey`]s that the driver gives out and never gives twice.

pub mod bitfield;
pub mod blame;
pub mod choker;
pub mod copies;
mod order;
pub mod picker;
mod random;
mod sparse;

pub use bitfield::{Bitfield, Pieces};
pub use blame::{Blame, Offence};
pub use choker::{Choker, ChokerLimits, Taker};
pub use copies::FirstCopies;
pub use picker::{Picker, Unit, UnitId, Urgency, Want, WantId};
pub use random::Random;

/// Names one connection to one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(pub u64);

/// Names one piece of a swarm.
pub type PieceIndex = u32;
