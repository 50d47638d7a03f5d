//! What a node remembers of a repository's swarm, so that after a restart it finds its peers though master and trackers are
//! away: what the master said last, and where peers were. Kept beside the piece space, for the node's eyes only: the swarm's
//! secret is in it.

use std::net::SocketAddr;
use std::path::Path;

use instantmirror_store::StoreError;
use instantmirror_store::disk::{Disk, read_file, write_privately};
use serde::{Deserialize, Serialize};

use super::SwarmOffer;

const FILE: &str = "known";
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Peers that are remembered.
const PEERS_MAX: usize = 50;

/// A swarm as it was known last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    /// What the master said.
    pub(crate) offer: SwarmOffer,
    /// Where peers were reached.
    #[serde(default)]
    pub(crate) peers: Vec<SocketAddr>,
}

impl Remembered {
    /// What `dir` holds; nothing, with a word in the log, if that is of no use: the master will tell it anew. Blocks.
    pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Option<Self> {
        let path = dir.join(FILE);
        let of_no_use = |why: &dyn std::fmt::Display| {
            let path = disk.os_path(&path).unwrap_or_else(|| path.clone());
            tracing::warn!(
                "{}: {why}; the swarm is known again when the master tells of it",
                path.display()
            );
        };
        match read_file(disk, &path, FILE_BYTES_MAX) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| of_no_use(&error)).ok(),
            Err(error) if error.is_not_found() => None,
            Err(error) => {
                of_no_use(&error);
                None
            }
        }
    }

    /// Writes it down. Blocks. After a crash it is what it was before or after.
    pub(crate) fn save(&self, disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
        disk.create_dir_all(dir)?;
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        write_privately(disk, &dir.join(FILE), &bytes)
    }

    /// Takes note of peers that are connected. Those that are known keep their places, those that are away go to the end, and
    /// are forgotten when others need the room. Whether that is worth writing down.
    pub(crate) fn meet(&mut self, connected: &[SocketAddr]) -> bool {
        let (mut met, away): (Vec<_>, Vec<_>) = self.peers.iter().partition(|peer| connected.contains(peer));
        met.extend(connected.iter().filter(|peer| !self.peers.contains(peer)));
        met.extend(away);
        met.truncate(PEERS_MAX);
        let is_news = met.iter().any(|peer| !self.peers.contains(peer));
        self.peers = met;
        is_news
    }
}

#[cfg(test)]
mod tests {
    use instantmirror_store::disk::RealDisk;
    use instantmirror_testkit::process::TestDir;

    use super::*;

    fn offer() -> SwarmOffer {
        SwarmOffer {
            info_hash: "11".repeat(20),
            ports: vec![6881],
            trackers: vec!["udp://tracker.example:6969".to_owned()],
            secret: Some("22".repeat(32)),
        }
    }

    fn peer(last: usize) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, u8::try_from(last).unwrap()], 6881))
    }

    #[test]
    fn what_is_written_down_is_read_again_and_only_by_its_owner() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = TestDir::new("swarm-memory").unwrap();
        let (disk, place) = (RealDisk::open(dir.path()).unwrap(), Path::new("swarm/r"));
        assert_eq!(Remembered::load(&disk, place), None);
        let mut remembered = Remembered {
            offer: offer(),
            peers: vec![peer(1), "[2001:db8::1]:6881".parse().unwrap()],
        };
        remembered.save(&disk, place).unwrap();
        assert_eq!(Remembered::load(&disk, place).as_ref(), Some(&remembered));
        remembered.peers.clear();
        remembered.save(&disk, place).unwrap();
        assert_eq!(Remembered::load(&disk, place), Some(remembered));
        let file = dir.path().join("swarm/r/known");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for damaged in ["", "{", "{}", "[1]"] {
            std::fs::write(&file, damaged).unwrap();
            assert_eq!(Remembered::load(&disk, place), None, "{damaged}");
        }
        std::fs::write(&file, vec![b' '; 65 * 1024]).unwrap();
        assert_eq!(Remembered::load(&disk, place), None, "too long");
    }

    #[test]
    fn some_dozens_are_remembered_and_those_that_are_away_go_first() {
        let mut remembered = Remembered {
            offer: offer(),
            peers: Vec::new(),
        };
        let all: Vec<_> = (0..60).map(peer).collect();
        assert!(remembered.meet(&all[..20]));
        assert!(!remembered.meet(&all[5..20]), "nobody new");
        assert_eq!(remembered.peers[15..], all[..5]);
        assert!(!remembered.meet(&[]));
        assert_eq!(remembered.peers.len(), 20);
        assert!(remembered.meet(&all[5..60]));
        assert_eq!(remembered.peers, all[5..55]);
        assert!(!remembered.meet(&all[5..60]), "no room for more, so no news");
    }
}
