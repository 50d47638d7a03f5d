//! Swarms of many nodes in virtual time: how fast content spreads, how little the master sends, what liars can do.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::print_stdout)]

mod net;

use std::time::Duration;

use net::{Kind, Net};

const MIB: u64 = 1 << 20;
const LINE: u64 = 12 * MIB;
const NODE: Kind = Kind {
    has_all: false,
    is_master: false,
    lies: false,
    up: LINE,
    down: LINE,
};
const MASTER: Kind = Kind {
    has_all: true,
    is_master: true,
    ..NODE
};

/// Seconds that the line needs for the content alone.
fn line(size: u64) -> f64 {
    size as f64 / LINE as f64
}

#[test]
fn four_nodes_get_what_the_master_sends_once() {
    let size = 256 * MIB;
    let mut net = Net::new(size, 1);
    net.add(Kind { up: LINE, ..MASTER });
    for _ in 0..4 {
        net.add(NODE);
    }
    for one in 0..5 {
        for other in 0..one {
            net.connect(one, other);
        }
    }
    net.run(Duration::from_secs(200), |_, _| {});
    let (done, copies) = (net.done(), net.nodes[0].sent as f64 / size as f64);
    println!("line {:.1} s: {done:.1?}, {copies:.3} copies", line(size));
    assert_eq!(done.len(), 4);
    assert!(copies < 1.05, "{copies}");
    assert!(done[3] < line(size) * 1.15, "{done:?}");
}
