//! Long commands say how far they are: by a bar on a terminal, which log lines do not tear, and without control characters
//! where there is none.

use std::path::Path;

use instantmirror_testkit::command::{clean_command, run_any};
use instantmirror_testkit::process::{TestDir, binary};

use crate::world::{LIMIT, Master, Node};

/// How long the time is that a line of the log begins with.
const TIME_BYTES: usize = "2026-11-29T21:24:42.752057Z".len();

/// What a command line shows on a terminal.
fn on_a_terminal(command: &str) -> String {
    let mut terminal = clean_command("script");
    terminal.args(["--quiet", "--return", "--command", command, "/dev/null"]);
    let finished = run_any(terminal.env("TERM", "xterm"), LIMIT).unwrap();
    assert!(finished.status.success(), "{command}: {}", finished.transcript());
    finished.transcript()
}

/// What it shows elsewhere.
fn elsewhere(command: &str) -> String {
    let finished = run_any(clean_command("sh").args(["-c", command]), LIMIT).unwrap();
    assert!(finished.status.success(), "{command}: {}", finished.transcript());
    finished.transcript()
}

/// Without colours.
fn plain(drawn: &str) -> String {
    let mut parts = drawn.split('\u{1b}');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(0);
        match part.get(end..=end) {
            Some("m") => text.push_str(&part[end + 1..]),
            _ => {
                text.push('\u{1b}');
                text.push_str(part);
            }
        }
    }
    text
}

/// Every line of the log begins where a line begins, or where what stood there was erased.
fn assert_untorn(drawn: &str) {
    let text = plain(drawn);
    for (at, _) in text.match_indices(" DEBUG ").chain(text.match_indices("  INFO ")) {
        let begins = at.saturating_sub(TIME_BYTES);
        let before = &text[..begins];
        let is_clean = before.is_empty() || before.ends_with(['\n', '\r', 'K', 'J', 'A']);
        assert!(is_clean, "{:?}", &text[begins.saturating_sub(60)..at + 40]);
    }
}

fn program(name: &str, config: &Path) -> String {
    format!("{} --config {}", binary(name).unwrap().display(), config.display())
}

#[test]
fn long_commands_draw_a_bar_on_a_terminal_and_nothing_of_it_elsewhere() {
    let dir = TestDir::new("e2e-progress").unwrap();
    let source = dir.folder("source").unwrap();
    let write = |round: usize| {
        for n in 0..300 {
            std::fs::write(
                source.join(format!("f{n}")),
                format!("{round} {n} {}", "x".repeat(3_000)),
            )
            .unwrap();
        }
    };
    let retention = "[retention]\nkeep_last = 1\ndelete_after = \"0 s\"\n[snapshots]\ngrace = \"0 s\"\n";
    let mut master = Master::new(&dir, &[("r", &source)]);
    master.configure("[retention]\nkeep_last = 9\n");
    for round in 0..3 {
        write(round);
        master.publish("r");
    }
    master.serve();
    let mut node = Node::configure(&dir, &master.url(), &master.key, &["r"], "10 GiB");
    node.run();
    let snapshot = master.live("r").pop().unwrap();
    node.wait_for("r", &snapshot);
    let (imserver, imnode) = (program("imserver", &master.config), program("imnode", &node.config));
    let out = dir.folder("out").unwrap();
    let out = out.display();
    let commands = [
        (
            format!("{imserver} publish r --dry-run --changed f1"),
            "publish r (dry run)",
        ),
        (format!("{imserver} export r --format ls-lR > {out}/ls-lR"), "export r"),
        (format!("{imserver} torrent r --out {out}/r.torrent"), "torrent r"),
        (format!("{imserver} snapshot diff r current~1 > {out}/diff"), "diff r"),
        (format!("{imserver} snapshot remove r current~1"), "remove from r"),
        (format!("{imnode} tag r gold current"), "tag r gold"),
    ];
    for (command, what) in &commands {
        let drawn = on_a_terminal(command);
        assert!(drawn.contains(what) && drawn.contains('\u{1b}'), "{command}: {drawn}");
        assert_untorn(&drawn);
    }
    // The same again, as far as it can be done twice.
    for (command, _) in commands.iter().filter(|(command, _)| !command.contains("remove")) {
        let said = elsewhere(&command.replace(" gold ", " silver "));
        assert!(!said.contains(['\u{1b}', '\r']), "{command}: {said:?}");
    }
    let text = std::fs::read_to_string(&master.config).unwrap();
    std::fs::write(&master.config, text.replace("[retention]\nkeep_last = 9\n", retention)).unwrap();
    let drawn = on_a_terminal(&format!("{imserver} retention --now"));
    assert!(drawn.contains("clean-up") && drawn.contains("deleted "), "{drawn}");
    assert_untorn(&drawn);
}
