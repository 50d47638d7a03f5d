//! The mirrors of a master, as far as it hears of them: [`Mirrors`] takes note of who polls for heads and what each says to
//! have. For the operator alone, by the control socket.
//!
//! A mirror is its name if it is registered, else its address with the number that it draws for this master
//! (docs/formats/api.md), so that several behind one address are told apart. Kept in memory, since the start: a mirror
//! polls once a minute at least.
//!
//! Invariant: strangers never take more room than [`MIRRORS_MAX`] and [`ENTRIES_MAX`] allow, and never the place of a registered
//! mirror.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use instantmirror_core::head::SnapshotState;
use instantmirror_core::order::newest_first;
use instantmirror_core::{Head, HeadMark, NodeName, RepoName, SnapshotId, Timestamp};
use instantmirror_http::HeadPoll;
use serde::{Deserialize, Serialize};

use crate::text::{Count, people_time};

/// Most mirrors that are remembered; those that were not heard of for longest go.
const MIRRORS_MAX: usize = 10_000;
/// So many go at a time, since to find them takes a look at all.
const ROOM_FOR: usize = 100;
/// Most repositories of all mirrors together.
const ENTRIES_MAX: usize = 200_000;
/// Most mirrors of one address, or of one network of IPv6 ([`network`]), that are not registered.
const PER_ADDRESS_MAX: usize = 64;
/// A repository that a mirror does not name for so long, while it names others, is one that it follows no more.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(24 * 3600);
/// One that is not registered is forgotten when it was not heard of for so long.
const FORGET_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Whom a poll comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Registered(NodeName),
    /// Its address, if it came over a network, and the number that it gave.
    Stranger(Option<IpAddr>, Option<u64>),
}

#[derive(Debug)]
struct Mirror {
    address: Option<IpAddr>,
    last_contact: Timestamp,
    heads: BTreeMap<RepoName, Held>,
}

/// What a mirror says to have of a repository.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// Sequence number of the last head of which it has all snapshots; 0: none.
    sequence: u64,
    /// Whether it was told of a newer one, and is at it.
    is_fetching: bool,
    last_contact: Timestamp,
}

#[derive(Debug, Default)]
struct Table {
    mirrors: BTreeMap<Who, Mirror>,
    entries: usize,
}

/// The table of mirrors.
#[derive(Debug)]
pub(super) struct Mirrors {
    since: Timestamp,
    table: Mutex<Table>,
}

/// What is known of the mirrors of a master at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorsStatus {
    /// Mirrors were listened to from here on.
    pub since: Timestamp,
    /// The moment of which all this is told.
    pub at: Timestamp,
    /// Registered ones first, in order of name; the others in order of address.
    pub mirrors: Vec<MirrorStatus>,
}

/// One mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// Its name, if it is registered.
    pub name: Option<NodeName>,
    /// The number by which it is told from others at its address, if it is not registered and gave one.
    pub id: Option<String>,
    /// The address it came from last.
    pub address: Option<IpAddr>,
    /// When it was last heard of; `None` for a registered one that was not.
    pub last_contact: Option<Timestamp>,
    /// What it follows, in order of name.
    pub repositories: Vec<MirrorRepository>,
}

/// One repository of a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorRepository {
    /// Its name.
    pub name: RepoName,
    /// When the mirror last said what it has of it.
    pub last_contact: Timestamp,
    /// Sequence number of the last head of which it has all that it wants; 0: none.
    pub sequence: u64,
    /// The snapshot that was current in that head, as far as the present one still knows.
    pub snapshot: Option<SnapshotId>,
    /// So many snapshots became current since.
    pub behind: usize,
    /// Seconds since the first of them did.
    pub lag_seconds: Option<u64>,
    /// Whether it was told of a newer head and is fetching what that names.
    pub fetching: bool,
    /// What is staged of the repository, if the mirror is registered.
    pub staged: Vec<StagedAt>,
}

/// A staged snapshot at a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedAt {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Whether the mirror said that it has all of it.
    pub complete: bool,
}

impl MirrorsStatus {
    /// What concerns one repository alone: registered mirrors, and the others that follow it.
    #[must_use]
    pub fn of(mut self, repository: &RepoName) -> Self {
        for mirror in &mut self.mirrors {
            mirror.repositories.retain(|one| one.name == *repository);
        }
        self.mirrors
            .retain(|mirror| mirror.name.is_some() || !mirror.repositories.is_empty());
        self
    }

    /// The registered mirrors that have all of a staged snapshot, and how many there are.
    #[must_use]
    pub fn staged_at(&self, repository: &RepoName, snapshot: SnapshotId) -> (Vec<&NodeName>, usize) {
        let registered = self
            .mirrors
            .iter()
            .filter_map(|mirror| Some((mirror.name.as_ref()?, mirror)));
        let has_it = |mirror: &MirrorStatus| {
            let of_it = mirror.repositories.iter().filter(|one| one.name == *repository);
            of_it
                .flat_map(|one| &one.staged)
                .any(|at| at.snapshot == snapshot && at.complete)
        };
        let complete = registered
            .clone()
            .filter(|(_, mirror)| has_it(mirror))
            .map(|(name, _)| name);
        (complete.collect(), registered.count())
    }
}

/// For people: a line for each mirror and for each of its repositories.
impl fmt::Display for MirrorsStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "mirrors heard of since {}: {}", self.since, self.mirrors.len())?;
        let ago = |then: Timestamp| format!("{} ago", people_time(self.at.since(then)));
        for mirror in &self.mirrors {
            let address = mirror
                .address
                .map_or_else(|| "this machine".to_owned(), |address| address.to_string());
            match (&mirror.name, &mirror.id) {
                (Some(name), _) if mirror.last_contact.is_none() => write!(f, "{name}  not heard of")?,
                (Some(name), _) => write!(f, "{name} ({address})")?,
                (None, Some(id)) => write!(f, "{address} number {id}")?,
                (None, None) => write!(f, "{address}")?,
            }
            match mirror.last_contact {
                Some(contact) => writeln!(f, "  {}", ago(contact))?,
                None => writeln!(f)?,
            }
            for repository in &mirror.repositories {
                writeln!(f, "  {repository}")?;
                for StagedAt { snapshot, complete } in &repository.staged {
                    let has = if *complete {
                        "has all of it"
                    } else {
                        "does not have all of it"
                    };
                    writeln!(f, "    staged {snapshot}: {has}")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for MirrorRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, sequence, .. } = self;
        match (self.snapshot, sequence) {
            (Some(snapshot), _) => write!(f, "{name}  {snapshot} (head {sequence})")?,
            (None, 0) => write!(f, "{name}  nothing yet")?,
            (None, _) => write!(f, "{name}  an older snapshot (head {sequence})")?,
        }
        match (self.behind, self.lag_seconds) {
            (0, _) => write!(f, ", up to date")?,
            (behind, lag) => {
                let lag = people_time(Duration::from_secs(lag.unwrap_or(0)));
                write!(f, ", {} behind for {lag}", Count::of(behind, "snapshot"))?;
            }
        }
        if self.fetching {
            write!(f, ", fetching")?;
        }
        Ok(())
    }
}

impl Table {
    /// Takes note of a poll. `is_here`: whether the master has a repository; of others nothing is kept.
    fn note(&mut self, poll: &HeadPoll<'_>, now: Timestamp, is_here: impl Fn(&RepoName) -> bool) {
        let address = poll.client.address;
        let who = match poll.node {
            Some(node) => Who::Registered(node.clone()),
            None => Who::Stranger(address, poll.id),
        };
        let held = self.mirrors.get(&who).map(|mirror| &mirror.heads);
        if let Who::Registered(_) = who {
            let is_new = |(name, mark): &(&RepoName, &HeadMark)| {
                let is_known = held.is_some_and(|heads| heads.contains_key(*name));
                **mark != HeadMark::Absent && is_here(name) && !is_known
            };
            let count = poll.question.known.iter().filter(is_new).count();
            self.make_room_for_entries(count);
        }
        if !self.mirrors.contains_key(&who) {
            self.make_room_for(&who, now);
        }
        let mirror = self.mirrors.entry(who).or_insert_with(|| Mirror {
            address,
            last_contact: now,
            heads: BTreeMap::new(),
        });
        (mirror.address, mirror.last_contact) = (address, now);
        for (repository, mark) in poll.question.known.iter().filter(|(name, _)| is_here(name)) {
            let HeadMark::Sequence(sequence) = *mark else { continue };
            let is_fetching = poll.question.pending.contains(repository);
            let before = mirror.heads.get(repository).map_or(0, |held| held.sequence);
            let held = Held {
                sequence: if is_fetching { before } else { sequence },
                is_fetching,
                last_contact: now,
            };
            let is_known = mirror.heads.contains_key(repository);
            if is_known || self.entries < ENTRIES_MAX {
                mirror.heads.insert(repository.clone(), held);
                self.entries += usize::from(!is_known);
            }
        }
    }

    fn make_room_for(&mut self, who: &Who, now: Timestamp) {
        if let Who::Stranger(address, _) = who {
            let network = address.map(network);
            let is_there = |other: &Option<IpAddr>| other.map(self::network) == network;
            let at_address: Vec<_> = self
                .mirrors
                .range(Who::Stranger(network, None)..)
                .take_while(|(other, _)| matches!(other, Who::Stranger(other, _) if is_there(other)))
                .map(|(other, mirror)| (mirror.last_contact, other.clone()))
                .collect();
            if at_address.len() >= PER_ADDRESS_MAX {
                self.drop_oldest(at_address, 1);
            }
        }
        if self.mirrors.len() < MIRRORS_MAX && self.entries < ENTRIES_MAX {
            return;
        }
        let all = self.strangers();
        let is_old = |(last_contact, _): &&(Timestamp, Who)| last_contact.plus(FORGET_AFTER) < now;
        let count = all.iter().filter(is_old).count().max(ROOM_FOR);
        self.drop_oldest(all, count);
    }

    /// Has the strangers that were not heard of for longest go until so many more repositories of a registered mirror fit.
    fn make_room_for_entries(&mut self, count: usize) {
        if count == 0 || self.entries + count <= ENTRIES_MAX {
            return;
        }
        let mut strangers = self.strangers();
        strangers.sort_unstable();
        for one in strangers {
            if self.entries + count <= ENTRIES_MAX {
                break;
            }
            self.drop_oldest(vec![one], 1);
        }
    }

    fn strangers(&self) -> Vec<(Timestamp, Who)> {
        let strangers = self.mirrors.iter().filter(|(who, _)| matches!(who, Who::Stranger(..)));
        strangers
            .map(|(who, mirror)| (mirror.last_contact, who.clone()))
            .collect()
    }

    fn drop_oldest(&mut self, mut of: Vec<(Timestamp, Who)>, count: usize) {
        of.sort_unstable();
        for (_, who) in of.into_iter().take(count) {
            self.entries -= self.mirrors.remove(&who).map_or(0, |gone| gone.heads.len());
        }
    }
}

/// What one site has of addresses: of IPv6 a whole network (/64), whose first address this is.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

impl Mirrors {
    pub(super) fn new(since: Timestamp) -> Self {
        Self {
            since,
            table: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, poll: &HeadPoll<'_>, now: Timestamp, is_here: impl Fn(&RepoName) -> bool) {
        self.table().note(poll, now, is_here);
    }

    /// All that is known. `registered`: the nodes in the registry; `head` gives the head of a repository, `staged` what is
    /// staged of it and whether a node has all of that.
    pub(super) fn status<'a>(
        &self,
        registered: Vec<NodeName>,
        now: Timestamp,
        head: impl Fn(&RepoName) -> Option<&'a Head>,
        staged: impl Fn(&RepoName, &NodeName) -> Vec<StagedAt>,
    ) -> MirrorsStatus {
        let mut table = self.table();
        table.mirrors.retain(|who, mirror| match who {
            Who::Registered(name) => registered.contains(name),
            Who::Stranger(..) => mirror.last_contact.plus(FORGET_AFTER) >= now,
        });
        for mirror in table.mirrors.values_mut() {
            let last = mirror.last_contact;
            mirror
                .heads
                .retain(|_, held| held.last_contact.plus(FOLLOWED_WITHIN) >= last);
        }
        table.entries = table.mirrors.values().map(|mirror| mirror.heads.len()).sum();
        let told = |who: &Who, mirror: Option<&Mirror>| {
            let (name, id) = match who {
                Who::Registered(name) => (Some(name.clone()), None),
                Who::Stranger(_, id) => (None, id.map(|id| format!("{id:016x}"))),
            };
            let heads = mirror.map(|mirror| mirror.heads.iter()).into_iter().flatten();
            let repositories = heads.map(|(repository, held)| {
                let staged = name.as_ref().map_or_else(Vec::new, |name| staged(repository, name));
                at_mirror(repository, *held, head(repository), staged, now)
            });
            MirrorStatus {
                repositories: repositories.collect(),
                id,
                address: mirror.and_then(|mirror| mirror.address),
                last_contact: mirror.map(|mirror| mirror.last_contact),
                name,
            }
        };
        let names = registered.into_iter().map(Who::Registered);
        let mut mirrors: Vec<_> = names.map(|who| told(&who, table.mirrors.get(&who))).collect();
        let is_stranger = |who: &&Who| matches!(who, Who::Stranger(..));
        let strangers = table.mirrors.iter().filter(|(who, _)| is_stranger(who));
        mirrors.extend(strangers.map(|(who, mirror)| told(who, Some(mirror))));
        MirrorsStatus {
            since: self.since,
            at: now,
            mirrors,
        }
    }
}

fn at_mirror(
    repository: &RepoName,
    held: Held,
    head: Option<&Head>,
    staged: Vec<StagedAt>,
    now: Timestamp,
) -> MirrorRepository {
    let since = |head: &Head, id| match head.snapshot(&id).map(|live| &live.state) {
        Some(SnapshotState::Released { since, .. }) => since.unwrap_or(0),
        _ => 0,
    };
    let turns = head.map_or_else(Vec::new, |head| {
        let all = newest_first(head, now);
        all.into_iter().map(|turn| (since(head, turn.id), turn)).collect()
    });
    let newer = turns.iter().take_while(|(since, _)| *since > held.sequence);
    let (behind, first) = newer.fold((0, None), |(count, _), (_, turn)| (count + 1, Some(turn.released)));
    // None that is older than what it has: then it has nothing, or what the head forgot.
    let snapshot = turns.get(behind).filter(|_| held.sequence > 0).map(|(_, turn)| turn.id);
    MirrorRepository {
        name: repository.clone(),
        last_contact: held.last_contact,
        sequence: held.sequence,
        snapshot,
        behind,
        lag_seconds: first.map(|first| now.since(first).as_secs()),
        fetching: held.is_fetching,
        staged,
    }
}

#[cfg(test)]
#[path = "mirrors_tests.rs"]
mod tests;
