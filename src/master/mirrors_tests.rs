//! Whom the table remembers, and whom it forgets.

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
    let mut client = Client::default();
    client.address = Some(address.parse().unwrap());
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

#[test]
fn a_network_of_ipv6_counts_as_one_address() {
    let mirrors = Mirrors::new(at(0));
    for number in 0..100 {
        let now = 10 + i64::from(number);
        note(
            &mirrors,
            &asker(&format!("2001:db8::1:{number:x}"), None, None),
            "r 1",
            now,
        );
    }
    note(&mirrors, &asker("2001:db8:0:1::1", None, None), "r 1", 200);
    note(&mirrors, &asker("2001:db7:ffff:ffff::1", None, None), "r 1", 200);
    let all = status(&mirrors, &[], 200).mirrors;
    assert_eq!(all.len(), PER_ADDRESS_MAX + 2);
    let is_there = |text: &str| all.iter().any(|mirror| mirror.address == Some(text.parse().unwrap()));
    assert!(is_there("2001:db8::1:63") && !is_there("2001:db8::1:0"));
    assert_eq!(mirrors.table().entries, all.len());
}

#[test]
fn strangers_go_for_what_a_registered_mirror_has() {
    let mirrors = Mirrors::new(at(0));
    let alpha = asker("192.0.2.1", Some("alpha"), None);
    note(&mirrors, &alpha, "r 4", 1);
    let lines: String = (0..1000).map(|number| format!("r{number} 1\n")).collect();
    for number in 0..200 {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string();
        note(&mirrors, &asker(&address, None, None), &lines, 10 + i64::from(number));
    }
    assert_eq!(mirrors.table().entries, ENTRIES_MAX);
    note(&mirrors, &alpha, &format!("r 4\nelsewhere 1\n{lines}"), 500);
    let table = mirrors.table();
    assert_eq!(table.mirrors[&Who::Registered(name("alpha"))].heads.len(), 1001);
    let is_there = |number| {
        table
            .mirrors
            .contains_key(&Who::Stranger(Some([10, 0, 0, number].into()), None))
    };
    assert!(!is_there(0) && (1..200).all(is_there));
    assert!(table.entries <= ENTRIES_MAX, "{}", table.entries);
}
