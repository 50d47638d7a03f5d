//! Peers in one process, with their objects in memory.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use instantmirror_core::metainfo::InfoHash;
use instantmirror_core::outboard::ObjectHasher;
use instantmirror_core::swarm::PieceIndex;
use instantmirror_core::traits::{Class, GroupRequest, Swarm as _};
use instantmirror_core::{ObjectId, Outboard, RangeSet};
use instantmirror_swarm::peer::{ObjectPlace, Origin, PeerLimits, PieceSource, Swarm, SwarmTransport, Swarms};
use instantmirror_swarm::session::SessionConfig;
use instantmirror_swarm::wire::PeerId;
use tokio::net::TcpListener;

pub(crate) const MIB: usize = 1 << 20;
const PIECE_BYTES: u32 = 1 << 20;

#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) id: ObjectId,
    pub(crate) content: Bytes,
    pub(crate) outboard: Outboard,
    first_piece: PieceIndex,
}

pub(crate) fn noise(seed: u64, length: usize) -> Bytes {
    let mut random = instantmirror_core::swarm::Random::new(seed);
    let words = (0..length.div_ceil(8)).flat_map(|_| random.bits().to_le_bytes());
    words.take(length).collect::<Vec<u8>>().into()
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) objects: Vec<Object>,
    /// Pieces and bytes of an export torrent; a repository's swarm if there are none.
    fixed: Option<(PieceIndex, u64)>,
}

/// What outboards a peer gives.
#[derive(Debug, Clone, Copy)]
enum Outboards {
    Good,
    Forged,
    Never,
}

/// What one peer has of the objects.
#[derive(Debug)]
struct Memory {
    objects: Vec<Object>,
    held: Mutex<HashMap<ObjectId, (Vec<u8>, RangeSet)>>,
    lies: bool,
    outboards: Outboards,
}

#[async_trait]
impl PieceSource for Memory {
    fn place_of(&self, object: &ObjectId) -> Option<ObjectPlace> {
        let found = self.objects.iter().find(|known| known.id == *object)?;
        Some(ObjectPlace {
            first_piece: found.first_piece,
            size: found.content.len() as u64,
        })
    }

    async fn read(&self, piece: PieceIndex, begin: u32, length: u32) -> Result<Bytes, String> {
        let object = self.objects.iter().rev().find(|known| known.first_piece <= piece);
        let object = object.ok_or("no such piece")?;
        let start = (piece - object.first_piece) as usize * PIECE_BYTES as usize + begin as usize;
        let range = start..start + length as usize;
        let held = self.held.lock().unwrap();
        let (bytes, present) = held.get(&object.id).ok_or("not here")?;
        if !present.contains(range.start as u64..range.end as u64) {
            return Err("not here yet".to_owned());
        }
        let mut bytes = bytes[range].to_vec();
        if self.lies {
            bytes[0] ^= 1;
        }
        Ok(bytes.into())
    }

    async fn outboard(&self, object: &ObjectId) -> Option<Bytes> {
        let found = self.objects.iter().find(|known| known.id == *object)?;
        self.held.lock().unwrap().get(object)?;
        let mut values = found.outboard.values().to_vec();
        match self.outboards {
            Outboards::Good => {}
            Outboards::Forged => *values.last_mut()? ^= 1,
            Outboards::Never => return std::future::pending().await,
        }
        Some(values.into())
    }
}

#[derive(Debug)]
pub(crate) struct Peer {
    memory: Arc<Memory>,
    pub(crate) swarms: Swarms,
    pub(crate) swarm: Arc<Swarm>,
    pub(crate) transport: SwarmTransport,
    pub(crate) address: SocketAddr,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl World {
    pub(crate) fn new(contents: Vec<Bytes>) -> Self {
        let mut first_piece = 3;
        let objects = contents
            .into_iter()
            .map(|content| {
                let mut hasher = ObjectHasher::new();
                hasher.update(&content);
                let outboard = hasher.finish();
                let object = Object {
                    id: ObjectId::of(&content),
                    outboard,
                    first_piece,
                    content,
                };
                first_piece += u32::try_from(object.content.len().div_ceil(PIECE_BYTES as usize)).unwrap();
                object
            })
            .collect();
        Self { objects, fixed: None }
    }

    /// The same content as an export torrent.
    pub(crate) fn of_an_export_torrent(mut self) -> Self {
        let last = self.objects.last().unwrap();
        let pieces = u32::try_from(last.content.len().div_ceil(PIECE_BYTES as usize)).unwrap();
        let end = last.first_piece + pieces;
        self.fixed = Some((end, u64::from(end) * u64::from(PIECE_BYTES)));
        self
    }

    pub(crate) fn total(&self) -> u64 {
        self.objects.iter().map(|object| object.content.len() as u64).sum()
    }

    #[expect(clippy::unused_self, reason = "a world has one swarm")]
    pub(crate) fn info_hash(&self) -> InfoHash {
        InfoHash::from_bytes([42; 20])
    }

    pub(crate) async fn seeder(&self, address: &str) -> Peer {
        self.peer(address, true, false, Outboards::Good).await
    }

    pub(crate) async fn liar(&self, address: &str) -> Peer {
        self.peer(address, true, true, Outboards::Good).await
    }

    /// Has all content, and a disk that never gives an outboard.
    pub(crate) async fn mute(&self, address: &str) -> Peer {
        self.peer(address, true, false, Outboards::Never).await
    }

    /// Has all content, and gives outboards that are forged.
    pub(crate) async fn forger(&self, address: &str) -> Peer {
        self.peer(address, true, false, Outboards::Forged).await
    }

    pub(crate) async fn leecher(&self, address: &str) -> Peer {
        self.peer(address, false, false, Outboards::Good).await
    }

    async fn peer(&self, address: &str, has_all: bool, lies: bool, outboards: Outboards) -> Peer {
        let whole = |object: &Object| {
            let mut present = RangeSet::new();
            present.insert(0..object.content.len() as u64);
            (object.id, (object.content.to_vec(), present))
        };
        let held = if has_all {
            self.objects.iter().map(whole).collect()
        } else {
            HashMap::new()
        };
        let memory = Arc::new(Memory {
            objects: self.objects.clone(),
            held: Mutex::new(held),
            lies,
            outboards,
        });
        let listener = TcpListener::bind(format!("{address}:0")).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut secret = [0; 32];
        secret[..2].copy_from_slice(&address.port().to_be_bytes());
        let mut limits = PeerLimits::default();
        limits.listen = vec![address.ip()];
        let swarms = Swarms::new(secret, limits);
        let config = SessionConfig {
            info_hash: self.info_hash(),
            peer_id: PeerId([0; 20]),
            piece_bytes: PIECE_BYTES,
            fixed: self.fixed,
            serves_all: has_all,
            is_private: false,
            metadata: None,
            first_copies: has_all,
            listen_port: Some(address.port()),
            secret: None,
            units_max: 256,
        };
        let swarm = swarms.join(config, memory.clone(), u64::from(address.port()));
        swarm.set_space(100);
        let transport = SwarmTransport::new("swarm");
        transport.set_swarms(vec![Arc::clone(&swarm)]);
        let (accepting, running) = (swarms.clone(), swarms.clone());
        let tasks = vec![
            tokio::spawn(async move { _ = accepting.accept(listener).await }),
            tokio::spawn(async move { running.run().await }),
        ];
        Peer {
            memory,
            swarms,
            swarm,
            transport,
            address,
            tasks,
        }
    }
}

impl Peer {
    pub(crate) fn knows(&self, address: SocketAddr) {
        self.swarms.add_peer(&self.swarm, address, Origin::Named);
    }

    /// Where its bytes are.
    pub(crate) fn source(&self) -> Arc<dyn PieceSource> {
        Arc::clone(&self.memory) as Arc<dyn PieceSource>
    }

    pub(crate) fn sent(&self) -> u64 {
        self.swarm.session_status().counts.sent_bytes
    }

    pub(crate) async fn fetch_all(&self) {
        let all = self.memory.objects.iter().map(|object| self.fetch(object));
        futures_util::future::join_all(all).await;
    }

    async fn fetch(&self, object: &Object) {
        let size = object.content.len() as u64;
        let repository = "r".parse().unwrap();
        let present = || {
            let held = self.memory.held.lock().unwrap();
            held.get(&object.id)
                .map(|(_, present)| present.clone())
                .unwrap_or_default()
        };
        while let Some(gap) = present().gap(0..size) {
            let request = GroupRequest {
                object: object.id,
                size,
                range: gap,
                class: Class::Preseed,
                rank: 0,
            };
            let Ok(mut groups) = self.transport.groups(&repository, request).await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            while let Some(Ok(group)) = groups.next().await {
                if object.outboard.verify_groups(group.offset, &group.data).is_err() {
                    group.receipt.bad();
                    continue;
                }
                self.keep(object, group.offset, &group.data);
                group.receipt.good();
                if present().contains(0..size) {
                    break;
                }
            }
        }
    }

    fn keep(&self, object: &Object, offset: u64, data: &[u8]) {
        let (size, piece_bytes) = (object.content.len() as u64, u64::from(PIECE_BYTES));
        let piece = offset / piece_bytes;
        let is_whole = {
            let mut held = self.memory.held.lock().unwrap();
            let fresh = || (vec![0; object.content.len()], RangeSet::new());
            let (bytes, present) = held.entry(object.id).or_insert_with(fresh);
            let at = usize::try_from(offset).unwrap();
            bytes[at..at + data.len()].copy_from_slice(data);
            present.insert(offset..offset + data.len() as u64);
            present.contains(piece * piece_bytes..((piece + 1) * piece_bytes).min(size))
        };
        if is_whole {
            self.swarm
                .set_have([object.first_piece + u32::try_from(piece).unwrap()], true);
        }
    }

    pub(crate) fn assert_complete(&self) {
        let held = self.memory.held.lock().unwrap();
        for object in &self.memory.objects {
            assert_eq!(held[&object.id].0, object.content);
        }
    }
}
