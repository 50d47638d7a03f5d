//! Peers come and go: what is said first, and what their going changes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;
use instantmirror_core::Moment;
use instantmirror_core::swarm::{Bitfield, PeerKey, Pieces};

use super::peer::Peer;
use super::rate::Rate;
use super::{CloseReason, PEX_FIRST, PEX_INTERVAL, PEX_INTERVAL_NODE, REQUESTS_MAX, Session, TOLD_SINGLY_MAX};
use crate::wire::extension::{ExtensionHandshake, ExtensionIds, HANDSHAKE_ID, NodeMessage, PexMessage, PexPeer};
use crate::wire::{Message, PeerId, Reserved};

/// The ids under which we take extended messages.
pub(super) const OUR_IDS: ExtensionIds = ExtensionIds {
    metadata: Some(1),
    pex: Some(2),
    dont_have: Some(3),
    node: Some(4),
};
/// Requests that a peer takes that does not say how many.
pub(super) const REQUESTS_OF_OTHERS: usize = 250;
/// Units that a peer is asked for at first.
pub(super) const FIRST_DEPTH: usize = 8;
/// What a proof is made for.
const PROOF_CONTEXT: &str = "instantmirror 2026 peer wire: proof of membership";

/// A peer after its handshake.
#[derive(Debug, Clone)]
pub struct Hello {
    /// Where it is; for incoming connections the port is not one to connect to.
    pub address: SocketAddr,
    /// What it calls itself.
    pub peer_id: PeerId,
    /// What it speaks.
    pub reserved: Reserved,
    /// We connected to it.
    pub is_outgoing: bool,
    /// Its place among preferred peers; lower goes first.
    pub preference: u32,
    /// Drawn for this connection, so that a proof is good for nothing else.
    pub nonce: [u8; 32],
}

impl Session {
    /// A peer is connected and handshakes were exchanged. One that calls itself as we do, or as another one at the same
    /// address does, is closed.
    pub fn connected(&mut self, key: PeerKey, hello: Hello, now: Moment) {
        let is_self = hello.peer_id == self.config.peer_id;
        let double = self.double_of(&hello);
        let peer = Peer {
            address: hello.address,
            peer_id: hello.peer_id,
            is_outgoing: hello.is_outgoing,
            speaks_fast: hello.reserved.fast,
            preference: hello.preference,
            ids: ExtensionIds::default(),
            client: None,
            listen_port: None,
            requests_max: REQUESTS_OF_OTHERS,
            nonce: hello.nonce,
            their_nonce: None,
            is_proven: false,
            is_upload_only: false,
            pieces: Pieces::default(),
            is_past_bitfield: false,
            chokes_us: true,
            is_choked: true,
            wants_us: false,
            is_wanted: false,
            allowed: HashSet::new(),
            rejected: HashMap::new(),
            asks: VecDeque::new(),
            begun: None,
            wanted_at: 0,
            nothing_at: None,
            depth: FIRST_DEPTH,
            uploads: VecDeque::new(),
            outboard_asks: HashSet::new(),
            outboard_waits: VecDeque::new(),
            metadata_waits: VecDeque::new(),
            last_heard: now,
            last_sent: now,
            useless_since: now,
            down: Rate::new(now),
            up: Rate::new(now),
            gave: 0,
            told: HashSet::new(),
            next_pex: now.plus(PEX_FIRST),
        };
        self.peers.insert(key, peer);
        match double {
            Some(held) if self.keeps_new(held, &hello) => self.close(held, CloseReason::Duplicate),
            None if !is_self => {}
            _ => return self.close(key, CloseReason::Duplicate),
        }
        if hello.reserved.extended {
            let payload = self.extension_handshake(&hello).encode();
            self.send_extended(key, Some(HANDSHAKE_ID), payload, now);
        }
        self.send_pieces(key, now);
    }

    fn double_of(&self, hello: &Hello) -> Option<PeerKey> {
        let is_same = |peer: &Peer| peer.peer_id == hello.peer_id && peer.address.ip() == hello.address.ip();
        self.peers.iter().find(|(_, peer)| is_same(peer)).map(|(key, _)| *key)
    }

    /// Of two connections, one from each side, both sides keep the same one: that of the higher peer id.
    fn keeps_new(&self, held: PeerKey, hello: &Hello) -> bool {
        let held_is_outgoing = self.peers.get(&held).is_some_and(|peer| peer.is_outgoing);
        let keeps_outgoing = self.config.peer_id > hello.peer_id;
        held_is_outgoing != hello.is_outgoing && hello.is_outgoing == keeps_outgoing
    }

    fn extension_handshake(&self, hello: &Hello) -> ExtensionHandshake {
        let metadata_size = self
            .config
            .metadata
            .as_ref()
            .and_then(|info| u32::try_from(info.len()).ok());
        ExtensionHandshake {
            ids: OUR_IDS,
            metadata_size,
            client: Some(concat!("InstantMirror ", env!("CARGO_PKG_VERSION")).to_owned()),
            listen_port: self.config.listen_port,
            request_queue: u32::try_from(REQUESTS_MAX).ok(),
            upload_only: self.config.serves_all,
            your_address: Some(hello.address.ip()),
            nonce: Some(hello.nonce),
        }
    }

    /// Sends an extended message to a peer that takes it.
    pub(super) fn send_extended(&mut self, key: PeerKey, id: Option<u8>, payload: Bytes, now: Moment) {
        if let Some(id) = id {
            self.send(key, Message::Extended { id, payload }, now);
        }
    }

    /// Tells a peer what we have, as far as it may know.
    fn send_pieces(&mut self, key: PeerKey, now: Moment) {
        let Some(peer) = self.peers.get(&key) else { return };
        let speaks_fast = peer.speaks_fast;
        if self.config.serves_all && speaks_fast && self.unreadable.is_empty() {
            return self.send(key, Message::HaveAll, now);
        }
        let mut shown = self.have.clone();
        if let (true, Some((pieces, _))) = (self.config.serves_all, self.config.fixed) {
            (0..pieces).for_each(|piece| _ = shown.insert(piece));
        }
        self.unreadable.keys().for_each(|piece| _ = shown.remove(*piece));
        self.hidden.iter().for_each(|piece| _ = shown.remove(piece));
        if self.is_closed {
            shown = Bitfield::new();
        }
        let end = self.config.fixed.map_or_else(|| shown.end(), |(pieces, _)| pieces);
        let message = match (shown.is_empty(), speaks_fast) {
            (true, true) => Message::HaveNone,
            (true, false) => return,
            (false, _) => Message::Bitfield(shown.to_wire(end)),
        };
        self.send(key, message, now);
    }

    /// A peer is gone: what it was asked for is asked of others.
    pub fn gone(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.remove(&key) else { return };
        self.copies.left(key);
        if peer.pieces != Pieces::All {
            self.picker.peer_came(&peer.pieces, false);
        }
        for ask in peer.asks {
            self.release(ask.unit.id, key);
        }
    }

    /// What a peer said in its extension handshake, which it may repeat.
    pub(super) fn extension_handshake_came(&mut self, key: PeerKey, said: ExtensionHandshake, now: Moment) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.ids = peer.ids.changed(said.ids);
        peer.client = said.client.or(peer.client.take());
        peer.listen_port = said.listen_port.or(peer.listen_port);
        peer.is_upload_only = said.upload_only;
        if let Some(most) = said.request_queue {
            peer.requests_max = usize::try_from(most).unwrap_or(REQUESTS_MAX).clamp(4, 2 * REQUESTS_MAX);
        }
        if let (Some(secret), Some(id), Some(nonce)) = (self.config.secret, peer.ids.node, said.nonce) {
            let ours = peer.nonce;
            let proof = proof(&secret, &self.config.info_hash, &self.config.peer_id, &ours, &nonce);
            peer.their_nonce = Some(nonce);
            self.send_extended(key, Some(id), NodeMessage::Proof(proof).encode(), now);
        }
    }

    /// A peer says that it is authorised. What it says wrong is as if it had said nothing.
    pub(super) fn proof_came(&mut self, key: PeerKey, said: &[u8; 32], now: Moment) {
        let Some(peer) = self.peers.get(&key) else { return };
        let (Some(secret), Some(theirs)) = (self.config.secret, peer.their_nonce) else {
            return;
        };
        let ought = proof(&secret, &self.config.info_hash, &peer.peer_id, &theirs, &peer.nonce);
        // Hashes compare in constant time.
        if blake3::Hash::from(ought) != blake3::Hash::from(*said) {
            // At debug: whoever connects can say so, again and again.
            tracing::debug!(peer = %peer.address, "this peer claims to be authorised and cannot prove it");
            return;
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.is_proven = true;
        }
        let told: Vec<u32> = self.have.iter().filter(|piece| self.hides(*piece)).collect();
        if told.len() > TOLD_SINGLY_MAX {
            return self.send(key, Message::Bitfield(self.have.to_wire(self.have.end())), now);
        }
        for piece in told {
            self.send(key, Message::Have(piece), now);
        }
    }

    /// Tells peers of each other (BEP 11).
    pub(super) fn tell_peers(&mut self, now: Moment) {
        let keys = self.keys_of(|peer| peer.ids.pex.is_some() && peer.next_pex <= now);
        if keys.is_empty() {
            return;
        }
        let known: HashSet<SocketAddr> = self.peers.values().filter_map(Peer::reachable_at).collect();
        for key in keys {
            let Some(peer) = self.peers.get_mut(&key) else { continue };
            let Some(id) = peer.ids.pex else { continue };
            let interval = if peer.is_node() {
                PEX_INTERVAL_NODE
            } else {
                PEX_INTERVAL
            };
            peer.next_pex = now.plus(interval);
            let own = peer.reachable_at();
            let fresh = known
                .iter()
                .filter(|address| Some(**address) != own && !peer.told.contains(*address));
            let added: Vec<SocketAddr> = fresh.take(crate::wire::extension::PEX_PEERS_MAX).copied().collect();
            let gone = peer.told.iter().filter(|address| !known.contains(*address));
            let dropped: Vec<SocketAddr> = gone.take(crate::wire::extension::PEX_PEERS_MAX).copied().collect();
            if added.is_empty() && dropped.is_empty() {
                continue;
            }
            peer.told.extend(&added);
            dropped.iter().for_each(|address| _ = peer.told.remove(address));
            let added = added
                .into_iter()
                .map(|address| PexPeer {
                    address,
                    flags: PexPeer::REACHABLE,
                })
                .collect();
            let payload = PexMessage { added, dropped }.encode();
            self.send_extended(key, Some(id), payload, now);
        }
    }

    /// What a peer has is known now, all at once.
    pub(super) fn pieces_came(&mut self, key: PeerKey, pieces: Pieces, now: Moment) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.nothing_at = None;
        let before = std::mem::replace(&mut peer.pieces, pieces);
        let picker = &mut self.picker;
        for (known, came) in [(&before, false), (&peer.pieces, true)] {
            if *known != Pieces::All {
                picker.peer_came(known, came);
            }
        }
        let wanted = peer.is_of_use(picker);
        self.set_interest(key, wanted, now);
    }

    /// What a bitfield message says, if it is one of this swarm.
    pub(super) fn bitfield_of(&self, bytes: &[u8]) -> Result<Pieces, String> {
        let pieces = Bitfield::from_wire(bytes);
        if let Some((count, _)) = self.config.fixed
            && (bytes.len() != count.div_ceil(8) as usize || pieces.end() > count)
        {
            let length = bytes.len();
            return Err(format!("a bitfield of {length} bytes is not one of {count} pieces"));
        }
        Ok(Pieces::Some(pieces))
    }
}

/// What proves that `prover` knows the secret, to whoever drew the other nonce. Good for one connection: whoever passes it
/// on would have to be called as the prover is, and nobody takes a connection to itself.
fn proof(
    secret: &[u8; 32],
    swarm: &instantmirror_core::metainfo::InfoHash,
    prover: &PeerId,
    provers: &[u8; 32],
    verifiers: &[u8; 32],
) -> [u8; 32] {
    let key = blake3::derive_key(PROOF_CONTEXT, secret);
    let mut hasher = blake3::Hasher::new_keyed(&key);
    for part in [&swarm.as_bytes()[..], &prover.0, provers, verifiers] {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}
