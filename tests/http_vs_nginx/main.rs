//! Hundreds of raw requests, each sent to our server and to nginx with the same files behind it.
//!
//! nginx is the oracle. Every difference is either ours being stricter (we refuse with a 4xx and close) or explained
//! in the table, with our outcome and the reason. An explanation that is not needed any more fails too, so the tables
//! always say how the two differ. In the themes about framing nothing excuses being laxer: a request that we see and
//! nginx does not is a smuggled one.
//!
//! | theme | about |
//! |---|---|
//! | [`framing`], [`chunked`] | where a request ends: lengths, chunks, what stands behind them |
//! | [`request_line`], [`fields`] | the head: line ends, versions, names, values, sizes |
//! | [`pipelines`] | several requests at once, requests in pieces |
//! | [`connections`], [`hosts`] | keeping and closing; whom it is for |
//! | [`targets`], [`methods`], [`paths`] | what is asked for |
//! | [`conditionals`], [`ranges`] | which part of it, and whether at all |
//!
//! To add a case, add a row to its theme's table; a row needs a name that no other has.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod case;
mod chunked;
mod conditionals;
mod connections;
mod fields;
mod framing;
mod hosts;
mod methods;
mod paths;
mod pipelines;
mod ranges;
mod request_line;
mod targets;
mod verdict;
mod wire;
mod world;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::case::{Case, Expected};
use crate::wire::{Outcome, exchange};
use crate::world::{Server, World};

/// The table has at least so many cases.
const CASES_MIN: usize = 1_000;

/// Connections at a time; most of their time is spent waiting.
const PARALLEL: usize = 16;

/// Silence that counts as waiting at first, and when a case is looked at again before it is called wrong.
const QUIET: Duration = Duration::from_millis(700);
const QUIET_AGAIN: Duration = Duration::from_secs(5);

/// A theme: its name, its table, and whether a laxer outcome can be explained.
type Theme = (&'static str, fn() -> Vec<Case>, bool);

const FRAMING: Theme = ("framing", framing::cases, false);
const CHUNKED: Theme = ("chunked", chunked::cases, false);
const REQUEST_LINE: Theme = ("request line", request_line::cases, false);
const FIELDS: Theme = ("fields", fields::cases, false);
const PIPELINES: Theme = ("pipelines", pipelines::cases, false);
const CONNECTIONS: Theme = ("connections", connections::cases, true);
const HOSTS: Theme = ("hosts", hosts::cases, true);
const TARGETS: Theme = ("targets", targets::cases, false);
const METHODS: Theme = ("methods", methods::cases, true);
const PATHS: Theme = ("paths", paths::cases, true);
const CONDITIONALS: Theme = ("conditionals", conditionals::cases, true);
const RANGES: Theme = ("ranges", ranges::cases, true);

const THEMES: [Theme; 12] = [
    FRAMING,
    CHUNKED,
    REQUEST_LINE,
    FIELDS,
    PIPELINES,
    CONNECTIONS,
    HOSTS,
    TARGETS,
    METHODS,
    PATHS,
    CONDITIONALS,
    RANGES,
];

#[test]
fn framing_is_as_strict_as_nginx() {
    check(FRAMING);
}

#[test]
fn chunked_requests_are_as_strict_as_nginx() {
    check(CHUNKED);
}

#[test]
fn request_lines_are_as_strict_as_nginx() {
    check(REQUEST_LINE);
}

#[test]
fn header_fields_are_as_strict_as_nginx() {
    check(FIELDS);
}

#[test]
fn pipelined_requests_are_as_many_as_for_nginx() {
    check(PIPELINES);
}

#[test]
fn hosts_are_taken_and_refused_as_nginx_does() {
    check(HOSTS);
}

#[test]
fn targets_lead_where_nginx_leads() {
    check(TARGETS);
}

#[test]
fn connections_are_kept_and_closed_as_nginx_does() {
    check(CONNECTIONS);
}

#[test]
fn methods_are_answered_as_nginx_does() {
    check(METHODS);
}

#[test]
fn paths_lead_where_nginx_leads() {
    check(PATHS);
}

#[test]
fn conditions_are_decided_as_nginx_does() {
    check(CONDITIONALS);
}

#[test]
fn ranges_are_cut_as_nginx_does() {
    check(RANGES);
}

#[test]
fn the_table_is_large_and_every_case_has_a_name_of_its_own() {
    let cases: Vec<Case> = THEMES.iter().flat_map(|(_, table, _)| table()).collect();
    assert!(cases.len() >= CASES_MIN, "{} cases", cases.len());
    let mut names = BTreeSet::new();
    for case in &cases {
        assert!(names.insert(&case.name), "twice: {}", case.name);
        if let Expected::Explained { why, .. } = case.expected {
            assert!(why.len() > 20, "{}: that is no reason: {why}", case.name);
        }
    }
}

/// Sends every case of a theme to both servers and reports all that is wrong at once.
fn check((name, table, may_be_laxer): Theme) {
    let world = World::new();
    let cases = table();
    let wrong = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            // Only a loaded machine makes a second, more patient look come out otherwise.
            let complaint =
                look(&world, case, QUIET, may_be_laxer).and_then(|_| look(&world, case, QUIET_AGAIN, may_be_laxer));
            wrong.lock().unwrap().extend(complaint);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(work);
        }
    });
    let mut wrong = wrong.into_inner().unwrap();
    wrong.sort();
    let count = wrong.len();
    assert!(
        wrong.is_empty(),
        "{name}: {count} of {} cases\n{}",
        cases.len(),
        wrong.join("\n")
    );
}

fn look(world: &World, case: &Case, quiet: Duration, may_be_laxer: bool) -> Option<String> {
    let (our, nginx) = (ask(&world.our, case, quiet), ask(&world.nginx, case, quiet));
    verdict::judge(case, &our, &nginx, may_be_laxer)
}

fn ask(server: &Server, case: &Case, quiet: Duration) -> Outcome {
    let bytes = with_etag(&case.bytes, &server.etag);
    exchange(server.address, &bytes, case.segment, &case.heads, quiet)
}

/// Puts a server's own entity tag in the place of `{etag}`; the rest may be any bytes.
fn with_etag(bytes: &[u8], etag: &str) -> Vec<u8> {
    const MARK: &[u8] = b"{etag}";
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(etag.as_bytes());
        rest = &rest[at + MARK.len()..];
    }
    out.extend_from_slice(rest);
    out
}
