//! A node that is accepted has exactly one encoding: building a directory of what it says gives it back.
#![no_main]

use bytes::Bytes;
use instantmirror_core::NodeId;
use instantmirror_core::catalog::{CatalogNode, LEAF_ENTRIES_MEAN, build_directory};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // Most of a header is given, so that the columns are reached too.
    let whole = [b"IMC\x01".as_slice(), data].concat();
    for bytes in [Bytes::copy_from_slice(data), Bytes::from(whole)] {
        let id = NodeId::of(&bytes);
        assert!(CatalogNode::decode(NodeId::of(b"other"), bytes.clone()).is_err());
        // Bytes that only look right must be readable without a panic.
        if let Ok(node) = CatalogNode::open(id, bytes.clone()) {
            let _ = (node.totals(), node.lower_bound(b"m"), node.position("m"));
            for i in 0..node.len() {
                let _ = node.name_bytes(i);
                if node.is_index() {
                    let _ = node.child(i);
                } else {
                    let _ = node.entry(i);
                }
            }
        }
        let Ok(node) = CatalogNode::decode(id, bytes.clone()) else {
            continue;
        };
        if node.is_index() || node.len() > LEAF_ENTRIES_MEAN {
            continue;
        }
        let entries: Vec<_> = (0..node.len()).map(|i| node.entry(i).expect("decoded")).collect();
        let mut nodes = Vec::new();
        let top = build_directory(&entries, &mut |node| nodes.push(node)).expect("what was decoded can be encoded");
        assert_eq!((nodes.len(), top.node), (1, id));
        assert_eq!(nodes[0].bytes(), &bytes);
        for (i, entry) in entries.iter().enumerate() {
            assert_eq!(node.position(entry.name.as_str()), Some(i));
        }
    }
});
