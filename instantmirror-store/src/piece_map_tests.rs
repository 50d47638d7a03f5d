//! Tests of the piece map.

use instantmirror_core::catalog::build_directory;
use instantmirror_core::{Entry, FileMeta, Meta, Name};
use proptest::prelude::*;

use super::*;
use crate::disk::SimDisk;

const PIECE: u32 = 1 << 20;

fn object(number: u64) -> ObjectId {
    ObjectId::of(&number.to_le_bytes())
}

fn mapped(number: u64, first_piece: u64, size: u64) -> MappedObject {
    MappedObject {
        first_piece,
        size,
        object: object(number),
    }
}

fn open(disk: &Arc<SimDisk>) -> PieceMap {
    PieceMap::open(disk.clone(), Path::new("r"), PIECE).unwrap()
}

/// Objects with their places one after the other.
fn space(sizes: &[u64]) -> Vec<MappedObject> {
    let mut next = 0;
    sizes
        .iter()
        .enumerate()
        .map(|(number, size)| {
            let record = mapped(number as u64, next, *size);
            next = record.end(u64::from(PIECE));
            record
        })
        .collect()
}

#[derive(Default)]
struct Nodes(HashMap<NodeId, bytes::Bytes>);

impl NodeSource for Nodes {
    fn node(&self, id: &NodeId) -> Result<Option<bytes::Bytes>, instantmirror_core::StoreError> {
        Ok(self.0.get(id).cloned())
    }
}

impl Nodes {
    fn tree(&mut self, objects: &[MappedObject]) -> NodeId {
        let mut entries: Vec<Entry> = objects
            .iter()
            .map(|record| Entry {
                name: Name::new(record.object.to_string()).unwrap(),
                meta: Meta {
                    mtime: 0,
                    mode: 0o644,
                    kind: Kind::File(FileMeta {
                        size: record.size,
                        object: record.object,
                        first_piece: record.first_piece,
                        link_group: None,
                    }),
                },
            })
            .collect();
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        let mut sink =
            |node: instantmirror_core::catalog::CatalogNode| _ = self.0.insert(node.id(), node.bytes().clone());
        build_directory(&entries, &mut sink).unwrap().node
    }
}

#[test]
fn it_follows_trees_and_a_restart_goes_on_from_there() {
    let disk = Arc::new(SimDisk::new());
    let all = space(&[5 << 20, 1, 3 << 20, 70_000, 2 << 20]);
    let mut nodes = Nodes::default();
    let (first, second) = (nodes.tree(&all[..3]), nodes.tree(&all[1..]));
    let map = open(&disk);
    assert!(map.is_empty());
    assert_eq!(map.advance(&nodes, first).unwrap(), 3);
    assert_eq!(map.advance(&nodes, first).unwrap(), 0);
    drop(map);
    let map = open(&disk);
    assert_eq!((map.len(), map.end()), (3, 9));
    assert_eq!(map.advance(&nodes, second).unwrap(), 2);
    assert_eq!(map.locate(9).unwrap(), Some(all[3]));
    assert_eq!(
        map.locate(4).unwrap(),
        Some(all[0]),
        "what is no longer in the tree keeps its place"
    );
    assert_eq!(map.place_of(&object(4)).unwrap(), Some(all[4]));
    assert_eq!(
        (map.locate(12).unwrap(), map.place_of(&object(77)).unwrap()),
        (None, None)
    );
    // The tree that it knows is gone: all of the next one is looked at.
    let mut others = Nodes::default();
    let third = others.tree(&all);
    assert_eq!(map.advance(&others, third).unwrap(), 0);
    // Another piece length has nothing to do with it.
    drop(map);
    assert!(PieceMap::open(disk, Path::new("r"), 2 * PIECE).unwrap().is_empty());
}

#[test]
fn a_damaged_or_short_file_is_made_anew() {
    let disk = Arc::new(SimDisk::new());
    let mut nodes = Nodes::default();
    let all = space(&[1; 200]);
    let root = nodes.tree(&all);
    open(&disk).advance(&nodes, root).unwrap();
    assert_eq!(open(&disk).len(), 200);
    disk.open_write(Path::new("r.pieces")).unwrap().set_len(4800).unwrap();
    let map = open(&disk);
    assert!(map.is_empty());
    map.advance(&nodes, root).unwrap();
    drop(map);
    disk.open_write(Path::new("r.state"))
        .unwrap()
        .write_at(&[9], 20)
        .unwrap();
    let map = open(&disk);
    assert!(map.is_empty());
    assert_eq!(map.advance(&nodes, root).unwrap(), 200);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// In whatever order objects come, also when the file is written anew: each piece is found, and each object.
    #[test]
    fn every_piece_and_every_object_is_found(
        sizes in prop::collection::vec(1_u64..5_000_000, 1..300),
        order in any::<u64>(),
        parts in 1_usize..5,
        merges in any::<bool>(),
    ) {
        let disk = Arc::new(SimDisk::new());
        let all = space(&sizes);
        let mut shuffled = all.clone();
        shuffled.sort_by_key(|record| spread(tag(&record.object)) ^ order);
        let map = open(&disk);
        for part in shuffled.chunks(shuffled.len().div_ceil(parts)) {
            map.add(part.to_vec()).unwrap();
            if merges {
                map.merge(&mut map.write()).unwrap();
            }
            map.commit(NodeId::from_bytes([1; 32])).unwrap();
        }
        prop_assert_eq!(map.add(all.clone()).unwrap(), 0);
        drop(map);
        let map = open(&disk);
        prop_assert_eq!(map.len(), all.len());
        for record in &all {
            prop_assert_eq!(map.place_of(&record.object).unwrap(), Some(*record));
            for piece in record.first_piece..record.end(u64::from(PIECE)) {
                prop_assert_eq!(map.locate(piece).unwrap(), Some(*record));
            }
        }
        prop_assert_eq!(map.locate(map.end()).unwrap(), None);
    }
}
