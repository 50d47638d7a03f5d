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
use std::net::IpAddr;
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
/// Most mirrors of one address that are not registered.
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
        let is_new = !self.mirrors.contains_key(&who);
        if is_new {
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
            let at_address: Vec<_> = self
                .mirrors
                .range(Who::Stranger(*address, None)..)
                .take_while(|(other, _)| matches!(other, Who::Stranger(other, _) if other == address))
                .map(|(other, mirror)| (mirror.last_contact, other.clone()))
                .collect();
            if at_address.len() >= PER_ADDRESS_MAX {
                self.drop_oldest(at_address, 1);
            }
        }
        if self.mirrors.len() < MIRRORS_MAX && self.entries < ENTRIES_MAX {
            return;
        }
        let strangers = self.mirrors.iter().filter(|(who, _)| matches!(who, Who::Stranger(..)));
        let all: Vec<_> = strangers
            .map(|(who, mirror)| (mirror.last_contact, who.clone()))
            .collect();
        let is_old = |(last_contact, _): &&(Timestamp, Who)| last_contact.plus(FORGET_AFTER) < now;
        let count = all.iter().filter(is_old).count().max(ROOM_FOR);
        self.drop_oldest(all, count);
    }

    fn drop_oldest(&mut self, mut of: Vec<(Timestamp, Who)>, count: usize) {
        of.sort_unstable();
        for (_, who) in of.into_iter().take(count) {
            self.entries -= self.mirrors.remove(&who).map_or(0, |gone| gone.heads.len());
        }
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
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use instantmirror_core::RecordId;
    use instantmirror_core::head::LiveSnapshot;
    use instantmirror_core::heads::HeadQuestion;
    use instantmirror_http::request::Client;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1000 * seconds)
    }

    fn id(number: u8) -> SnapshotId {
        SnapshotId::from_random([number; 16])
    }

    fn name<T: std::str::FromStr<Err: fmt::Debug>>(text: &str) -> T {
        text.parse().unwrap()
    }

    /// Snapshot N became current in head N, at second 100 N.
    fn head(released: u8, sequence: u64) -> Head {
        let live = |number: u8| LiveSnapshot {
            id: id(number),
            record: RecordId::of(b""),
            state: SnapshotState::released(at(100 * i64::from(number)), u64::from(number)),
        };
        Head {
            repository: name("r"),
            sequence,
            issued: at(0),
            expires: at(1_000_000),
            piece_length: 1 << 20,
            current: Some(id(released)),
            snapshots: (1..=released).map(live).collect(),
            tags: BTreeMap::new(),
            key_list: 0,
            preseed: Vec::new(),
            grace_never: Vec::new(),
            removed: Vec::new(),
        }
    }

    struct Asker(Client, Option<NodeName>, Option<u64>);

    fn asker(address: &str, node: Option<&str>, id: Option<u64>) -> Asker {
        let client = Client {
            address: Some(address.parse().unwrap()),
            is_private: false,
            is_local: false,
        };
        Asker(client, node.map(name), id)
    }

    fn question(lines: &str) -> HeadQuestion {
        HeadQuestion::decode(lines.as_bytes()).unwrap()
    }

    fn note(mirrors: &Mirrors, Asker(client, node, id): &Asker, lines: &str, now: i64) {
        let poll = HeadPoll {
            client,
            node: node.as_ref(),
            id: *id,
            question: &question(lines),
        };
        mirrors.note(&poll, at(now), |repository| *repository != name("elsewhere"));
    }

    fn status(mirrors: &Mirrors, registered: &[&str], now: i64) -> MirrorsStatus {
        let head = head(4, 6);
        let registered = registered.iter().map(|one| name(one)).collect();
        let staged = |repository: &RepoName, node: &NodeName| {
            let snapshot = id(9);
            let complete = *node == name("alpha");
            (*repository == name("r"))
                .then_some(StagedAt { snapshot, complete })
                .into_iter()
                .collect()
        };
        mirrors.status(
            registered,
            at(now),
            |repository| (*repository == name("r")).then_some(&head),
            staged,
        )
    }

    #[test]
    fn a_mirror_is_as_far_as_the_last_head_of_which_it_has_all() {
        let mirrors = Mirrors::new(at(0));
        let alpha = asker("192.0.2.1", Some("alpha"), Some(7));
        let seen = |now| status(&mirrors, &["alpha", "beta"], now).mirrors;
        note(&mirrors, &alpha, "r 2\nother 3\nelsewhere 1\nghost -", 400);
        let all = seen(430);
        assert_eq!(
            (all.len(), all[1].last_contact, all[1].repositories.len()),
            (2, None, 0),
            "beta is silent"
        );
        let (r, other) = (&all[0].repositories[1], &all[0].repositories[0]);
        assert_eq!((r.snapshot, r.behind, r.lag_seconds), (Some(id(2)), 2, Some(130)));
        assert_eq!((other.name.as_str(), other.snapshot, other.behind), ("other", None, 0));
        assert_eq!(all[0].repositories.len(), 2, "what is not here is not kept");
        assert_eq!(all[0].id, None, "a name is enough");
        // It was told of the newest, and does not have it.
        note(&mirrors, &alpha, "r 6 pending", 431);
        let r = seen(431)[0].repositories[1].clone();
        assert_eq!((r.sequence, r.behind, r.fetching), (2, 2, true));
        // A head that only renews changes no snapshot.
        note(&mirrors, &alpha, "r 5", 440);
        let r = seen(440)[0].repositories[1].clone();
        assert_eq!(
            (r.snapshot, r.behind, r.lag_seconds, r.fetching),
            (Some(id(4)), 0, None, false)
        );
        note(&mirrors, &alpha, "r 0", 450);
        let r = seen(450)[0].repositories[1].clone();
        assert_eq!((r.snapshot, r.behind, r.lag_seconds), (None, 4, Some(350)));
        let told = status(&mirrors, &["alpha", "beta"], 460);
        assert_eq!(told.staged_at(&name("r"), id(9)), (vec![&name("alpha")], 2));
        let text = told.of(&name("r")).to_string();
        assert!(
            text.contains("alpha (192.0.2.1)  10 s ago\n  r  nothing yet, 4 snapshots behind for 6 min\n"),
            "{text}"
        );
        assert!(text.contains(&format!("staged {}: has all of it", id(9))), "{text}");
        assert!(
            text.contains("beta  not heard of\n") && !text.contains("other"),
            "{text}"
        );
        // A repository that it names no more is one that it follows no more.
        note(&mirrors, &alpha, "r 5", 90_000);
        assert_eq!(seen(90_000)[0].repositories.len(), 1);
        assert_eq!(
            status(&mirrors, &[], 90_000).mirrors,
            [],
            "it is not registered any more"
        );
    }

    #[test]
    fn strangers_at_one_address_are_told_apart_and_take_no_more_room_than_there_is() {
        let mirrors = Mirrors::new(at(0));
        note(&mirrors, &asker("192.0.2.9", Some("alpha"), None), "r 4", 1);
        for number in 0..100 {
            note(
                &mirrors,
                &asker("192.0.2.1", None, Some(number)),
                "r 1",
                10 + i64::try_from(number).unwrap(),
            );
        }
        note(&mirrors, &asker("192.0.2.1", None, None), "r 1", 200);
        let all = status(&mirrors, &["alpha"], 200).mirrors;
        assert_eq!(all.len(), 1 + PER_ADDRESS_MAX);
        let numbers: BTreeSet<_> = all.iter().filter_map(|mirror| mirror.id.clone()).collect();
        assert_eq!(numbers.len(), PER_ADDRESS_MAX - 1);
        assert!(!numbers.contains("0000000000000000") && numbers.contains("0000000000000063"));
        // Others at other addresses: the oldest stranger goes, and nobody who is registered.
        for number in 0..MIRRORS_MAX {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + u32::try_from(number).unwrap());
            note(&mirrors, &asker(&address.to_string(), None, None), "r 1", 300);
        }
        let all = status(&mirrors, &["alpha"], 300).mirrors;
        assert!(
            (MIRRORS_MAX - ROOM_FOR..=MIRRORS_MAX).contains(&all.len()),
            "{}",
            all.len()
        );
        assert_eq!(all[0].name, Some(name("alpha")));
        // After a week of silence they are forgotten.
        let week = i64::try_from(FORGET_AFTER.as_secs()).unwrap();
        note(&mirrors, &asker("192.0.2.3", None, None), "r 1", 200 + week);
        assert_eq!(status(&mirrors, &["alpha"], 301 + week).mirrors.len(), 2);
        assert_eq!(mirrors.table().entries, 2);
    }

    #[test]
    fn so_many_repositories_of_strangers_are_kept_and_no_more() {
        let mirrors = Mirrors::new(at(0));
        let lines: String = (0..1000).map(|number| format!("r{number} 1\n")).collect();
        for number in 0..250 {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + number);
            note(
                &mirrors,
                &asker(&address.to_string(), None, None),
                &lines,
                1 + i64::from(number),
            );
        }
        let table = mirrors.table();
        assert!(table.entries <= ENTRIES_MAX, "{}", table.entries);
        let counted: usize = table.mirrors.values().map(|mirror| mirror.heads.len()).sum();
        assert_eq!(counted, table.entries);
        assert!(table.mirrors.len() >= 100, "{}", table.mirrors.len());
    }
}
