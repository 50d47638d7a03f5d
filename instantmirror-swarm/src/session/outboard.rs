//! Outboards, which nodes of ours give each other: with them a large object can be verified though its master is away.
//!
//! Nothing that comes is believed here: whoever asked verifies it, and [expels](Session::expel) who lied. What is asked for
//! is answered one by one, choked or not: an outboard is the two-thousandth part of its object.

use bytes::Bytes;
use instantmirror_core::swarm::{PeerKey, PieceIndex, Pieces};
use instantmirror_core::{Moment, ObjectId};

use super::peer::Peer;
use super::{Action, Event, Session};
use crate::wire::extension::NodeMessage;

/// Parts of outboards that a peer may have waiting here; more are declined.
pub const OUTBOARD_WAITS_MAX: usize = 64;
/// Parts that we ask of a peer at a time: others have the same limit.
const OUTBOARD_ASKS_MAX: usize = OUTBOARD_WAITS_MAX / 2;

impl Session {
    /// The peer to ask for the outboard of an object that lies in `pieces` pieces from `first` on: a node that has some of it,
    /// rather one that has all, a master last; of equals the one with the least to do.
    #[must_use]
    pub fn outboard_peer(
        &self,
        object: &ObjectId,
        first: PieceIndex,
        pieces: u32,
        except: &[PeerKey],
    ) -> Option<PeerKey> {
        let all = || first..first.saturating_add(pieces);
        let may_ask = |(key, peer): &(&PeerKey, &Peer)| {
            peer.is_node()
                && !except.contains(key)
                && peer.outboard_asks.len() < OUTBOARD_ASKS_MAX
                && !peer.outboard_asks.iter().any(|(asked, _)| asked == object)
                && all().any(|piece| peer.pieces.has(piece))
        };
        let rank = |(key, peer): &(&PeerKey, &Peer)| {
            let is_master = peer.pieces == Pieces::All;
            let lacks_some = !all().all(|piece| peer.pieces.has(piece));
            (is_master, lacks_some, peer.outboard_asks.len(), peer.preference, **key)
        };
        let best = self.peers.iter().filter(may_ask).min_by_key(rank);
        best.map(|(key, _)| *key)
    }

    /// Asks a peer for a part of an outboard.
    pub fn ask_outboard(&mut self, key: PeerKey, object: ObjectId, offset: u32, now: Moment) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.outboard_asks.insert((object, offset));
        let id = peer.ids.node;
        let message = NodeMessage::OutboardRequest { object, offset };
        self.send_extended(key, id, message.encode(), now);
    }

    /// What a peer was asked for of an object's outboard is not wanted any more.
    pub fn forget_outboard(&mut self, key: PeerKey, object: &ObjectId) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.outboard_asks.retain(|(asked, _)| asked != object);
        }
    }

    /// A peer speaks of an outboard. What was not asked for is passed over.
    pub(super) fn outboard_message(&mut self, key: PeerKey, said: NodeMessage, now: Moment) -> Option<Event> {
        let peer = self.peers.get_mut(&key)?;
        match said {
            NodeMessage::OutboardRequest { object, offset } => {
                if !peer.is_node() || peer.outboard_waits.contains(&(object, offset)) {
                    return None;
                }
                if peer.outboard_waits.len() >= OUTBOARD_WAITS_MAX {
                    self.decline_outboard(key, object, now);
                    return None;
                }
                peer.outboard_waits.push_back((object, offset));
                self.act(key, Action::Upload);
                None
            }
            NodeMessage::Outboard {
                object,
                total,
                offset,
                data,
            } => {
                if !peer.outboard_asks.remove(&(object, offset)) {
                    self.counts.wasted_bytes += data.len() as u64;
                    return None;
                }
                Some(Event::Outboard {
                    object,
                    total,
                    offset,
                    data,
                })
            }
            NodeMessage::NoOutboard { object } => {
                let before = peer.outboard_asks.len();
                peer.outboard_asks.retain(|(asked, _)| *asked != object);
                (peer.outboard_asks.len() < before).then_some(Event::NoOutboard(object))
            }
            NodeMessage::Proof(_) => None,
        }
    }

    /// The next part of an outboard that a peer waits for. The driver [answers](Self::answer_outboard).
    pub fn next_outboard(&mut self, key: PeerKey) -> Option<(ObjectId, u32)> {
        self.peers.get_mut(&key)?.outboard_waits.pop_front()
    }

    /// Whether a peer may know of an object whose first piece this is.
    #[must_use]
    pub fn may_know(&self, key: PeerKey, first_piece: PieceIndex) -> bool {
        let peer = self.peers.get(&key);
        peer.is_some_and(|peer| peer.is_proven || !self.hides(first_piece))
    }

    /// Gives a peer the part at `offset` of an object's outboard; `None`: it is not here, or not for everybody.
    pub fn answer_outboard(
        &mut self,
        key: PeerKey,
        object: ObjectId,
        offset: u32,
        outboard: Option<&Bytes>,
        now: Moment,
    ) {
        let Some(part) = outboard.and_then(|outboard| part_of(object, offset, outboard)) else {
            return self.decline_outboard(key, object, now);
        };
        let id = self.peers.get(&key).and_then(|peer| peer.ids.node);
        self.send_extended(key, id, part.encode(), now);
    }

    fn decline_outboard(&mut self, key: PeerKey, object: ObjectId, now: Moment) {
        let id = self.peers.get(&key).and_then(|peer| peer.ids.node);
        self.send_extended(key, id, NodeMessage::NoOutboard { object }.encode(), now);
    }
}

fn part_of(object: ObjectId, offset: u32, outboard: &Bytes) -> Option<NodeMessage> {
    let total = u32::try_from(outboard.len()).ok()?;
    let length = NodeMessage::part_bytes(offset, total)?;
    Some(NodeMessage::Outboard {
        object,
        total,
        offset,
        data: outboard.slice(offset as usize..(offset + length) as usize),
    })
}
