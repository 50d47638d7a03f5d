//! Readers that ask a thousand times for what cannot be had: the log has a few lines, the counters all of it.

use instantmirror_testkit::command::{clean_command, run_any};
use instantmirror_testkit::process::TestDir;

use crate::world::{LIMIT, Master, Node};

/// So many requests are made.
const FLOOD: usize = 1_000;
/// So many lines of a kind may come of them: one each minute that they take, on however slow a machine.
const LINES_MAX: usize = 5;

/// Asks for `path` at each of these numbers, with curl.
fn flood(base: &str, path: &str) {
    let mut curl = clean_command("curl");
    curl.args([
        "--silent",
        "--output",
        "/dev/null",
        "--parallel",
        "--parallel-max",
        "20",
    ]);
    curl.arg(format!("{base}/{path}[1-{FLOOD}]"));
    // It ends with an error for the answers that broke off.
    run_any(&mut curl, LIMIT).unwrap();
}

/// Lines of a log at these levels that hold a text.
fn lines(log: &str, levels: &[&str], text: &str) -> usize {
    let is_one = |line: &&str| levels.iter().any(|level| line.contains(level)) && line.contains(text);
    log.lines().filter(is_one).count()
}

#[test]
fn a_thousand_requests_for_what_cannot_be_had_are_a_few_lines_in_the_log() {
    let dir = TestDir::new("e2e-floods").unwrap();
    let source = dir.folder("source").unwrap();
    for n in 1..=FLOOD {
        std::fs::write(source.join(format!("f{n}")), format!("content {n}")).unwrap();
    }
    let mut master = Master::new(&dir, &[("r", &source)]);
    let snapshot = master.publish("r");
    master.serve();
    let node = Node::start(&dir, &master, &["r"]);
    node.wait_for("r", &snapshot);

    // A mirror whose master is away: nothing that the operator does not know already.
    master.stop(false);
    flood(&node.url(), "pub/r/f");
    let status = node.status();
    let answers = &status["http"]["answers"];
    assert_eq!(answers["504"], FLOOD, "{answers}");
    let log = node.daemon_log();
    for text in ["cannot serve", "fetch failed"] {
        let told = lines(&log, &[" INFO "], text);
        assert!((1..=LINES_MAX).contains(&told), "{text}: {told}\n{log}");
        assert_eq!(lines(&log, &[" WARN ", "ERROR "], text), 0, "{text}");
        // At the level for those who look for it, each is told.
        assert_eq!(lines(&log, &["DEBUG "], text) + told, FLOOD, "{text}");
    }

    // A master that has lost its objects: the operator has to know, once.
    for object in master.objects() {
        std::fs::remove_file(master.dir.join("store/objects").join(&object[..2]).join(&object)).unwrap();
    }
    master.serve();
    flood(&master.url(), "r/snap/current/f");
    let answered = master.run(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&answered.stdout).unwrap();
    assert_eq!(status["http"]["answers"]["504"], FLOOD, "{status}");
    let log = master.daemon().log();
    let told = lines(&log, &[" WARN ", "ERROR "], "cannot serve");
    assert!((1..=LINES_MAX).contains(&told), "{told}\n{log}");
    assert_eq!(lines(&log, &["DEBUG "], "cannot serve") + told, FLOOD);
}
