//! What a large piece space costs: 5 million pieces, as of 3 million files, and 50 peers that have all of them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use instantmirror_core::Moment;
use instantmirror_core::metainfo::InfoHash;
use instantmirror_core::swarm::{Bitfield, PeerKey, Urgency, Want};
use instantmirror_core::traits::Class;
use instantmirror_swarm::session::{Action, Event, Hello, Session, SessionConfig};
use instantmirror_swarm::wire::{Message, PeerId, Reserved};

const PEERS: u8 = 50;
const OBJECT_BYTES: u64 = 256 << 20;

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Time to take in 50 peers with full bitfields, bytes that took, and nanoseconds per block that is asked for and comes.
fn measure(pieces: u32) -> (Duration, u64, u64) {
    let before = resident_bytes();
    let config = SessionConfig {
        info_hash: InfoHash::from_bytes([1; 20]),
        peer_id: PeerId([99; 20]),
        piece_bytes: 1 << 20,
        fixed: None,
        serves_all: false,
        is_private: false,
        metadata: None,
        first_copies: false,
        listen_port: None,
        secret: None,
        units_max: 256,
    };
    let mut session = Session::new(config, 1);
    session.set_space(pieces);
    let mut full = Bitfield::new();
    (0..pieces).for_each(|piece| _ = full.insert(piece));
    let wire = full.to_wire(pieces);
    let now = Moment(Duration::from_secs(1));
    let begun = Instant::now();
    for number in 0..PEERS {
        let key = PeerKey(u64::from(number));
        let hello = Hello {
            address: SocketAddr::from(([192, 0, 2, number], 6881)),
            peer_id: PeerId([number; 20]),
            reserved: Reserved::OURS,
            is_outgoing: true,
            preference: 1,
            nonce: [number; 32],
        };
        session.connected(key, hello, now);
        session.message(key, &Message::Bitfield(wire.clone()), now);
        session.message(key, &Message::Unchoke, now);
    }
    let took = begun.elapsed();
    let held = resident_bytes().saturating_sub(before);
    let begun = Instant::now();
    let want = Want {
        first_piece: pieces / 2,
        size: OBJECT_BYTES,
        range: 0..OBJECT_BYTES,
        urgency: Urgency {
            class: Class::Preseed,
            rank: 0,
        },
    };
    session.want(want, now);
    let (mut asked, mut blocks) = (VecDeque::new(), 0_u64);
    loop {
        for (key, action) in session.actions() {
            if let Action::Send(Message::Request(block)) = action {
                asked.push_back((key, block));
            }
        }
        let Some((key, block)) = asked.pop_front() else { break };
        blocks += 1;
        let (piece, begin, data) = (block.piece, block.begin, Bytes::from_static(&[0; 16384]));
        if let Some(Event::Block {
            unit, is_whole: true, ..
        }) = session.message(key, &Message::Piece { piece, begin, data }, now)
        {
            session.verified(unit.id, now);
        }
    }
    assert_eq!(blocks, OBJECT_BYTES / 16384);
    let per_block = begun.elapsed().as_nanos() / u128::from(blocks);
    (took, held, u64::try_from(per_block).unwrap())
}

/// `cargo test --release -p instantmirror-swarm --test simulation -- --ignored --nocapture million_pieces`
#[test]
#[ignore = "a measurement"]
fn five_million_pieces_cost_little_more_than_a_thousand() {
    for pieces in [1_000, 5_000_000] {
        let (took, held, per_block) = measure(pieces);
        println!(
            "{pieces} pieces: {PEERS} peers with full bitfields in {:.0} ms, {:.1} MiB; {per_block} ns a block",
            took.as_secs_f64() * 1000.0,
            held as f64 / f64::from(1 << 20)
        );
    }
}
