//! The command line as people meet it: help, configuration errors, exit codes, listings.

use instantmirror_testkit::command::{clean_command, run_any};
use instantmirror_testkit::process::{TestDir, binary};

use crate::world::{LIMIT, Master};

fn say(program: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = clean_command(binary(program).unwrap().to_str().unwrap());
    let finished = run_any(command.args(arguments), LIMIT).unwrap();
    (finished.status.code(), finished.transcript())
}

#[test]
fn configuration_errors_end_with_code_2_and_name_the_place() {
    let dir = TestDir::new("e2e-config").unwrap();
    let file = dir.path().join("bad.toml");
    let path = file.to_str().unwrap();
    for (program, text, said) in [
        (
            "imserver",
            "[store]\ndir = \"/x\"\n\n[htp]\n",
            "bad.toml:4:2: unknown key `htp`",
        ),
        ("imserver", "[store]\ndir = \"/x\"\n\n[htp]\n", "did you mean `http`?"),
        ("imnode", "[cache]\ndir = \"/x\"\nmax_size = 5\n", "bad.toml:3:12:"),
        ("imnode", "[cache]\ndir = \"/x\"\n", "missing field `max_size`"),
        (
            "imtracker",
            "[torrents]\nalow = []\n",
            "bad.toml:2:1: unknown key `alow`",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        for command in [&["--config", path, "--check-config"][..], &["--config", path, "status"]] {
            let (code, transcript) = say(program, command);
            assert_eq!(code, Some(2), "{transcript}");
            assert!(transcript.contains(said), "{transcript}");
        }
    }
    let (code, transcript) = say("imserver", &["--config", "/nowhere/imserver.toml", "serve"]);
    assert_eq!(code, Some(2), "{transcript}");
    assert!(
        transcript.contains("/nowhere/imserver.toml: cannot be read"),
        "{transcript}"
    );
}

#[test]
fn a_reader_that_goes_ends_a_program_without_a_word() {
    for program in ["imserver", "imnode", "imtracker"] {
        // It begins when writing fails, so when the reader has gone for sure.
        let gone = "trap '' PIPE; while echo 2>/dev/null; do sleep 0.01; done";
        let script = format!("{{ {gone}; \"$0\" --print-config; echo \"code $?\" >&2; }} | true");
        let binary = binary(program).unwrap();
        let finished = run_any(clean_command("sh").args(["-c", &script]).arg(binary), LIMIT).unwrap();
        assert_eq!(String::from_utf8_lossy(&finished.stderr), "code 1\n");
    }
}

#[test]
fn commands_that_take_much_show_examples_a_line_each() {
    for (program, commands) in [
        ("imnode", &["tag", "verify", "adopt", "prefetch", "routes"][..]),
        ("imserver", &["publish", "torrent", "export", "retention", "routes"]),
        ("imtracker", &["routes"]),
    ] {
        for command in commands {
            let help = say(program, &[command, "--help"]).1;
            let examples = help.split_once("Examples:\n").map(|(_, examples)| examples);
            let examples: Vec<&str> = examples
                .unwrap_or_else(|| panic!("{help}"))
                .trim_end()
                .lines()
                .collect();
            assert!(
                examples
                    .iter()
                    .all(|line| line.starts_with(&format!("  {program} {command}"))),
                "{help}"
            );
        }
    }
}

#[test]
fn printed_configurations_pass_the_check() {
    let dir = TestDir::new("e2e-print").unwrap();
    for program in ["imserver", "imnode", "imtracker"] {
        let file = dir.path().join(program);
        // The directories in it are those of no test machine.
        let printed = say(program, &["--print-config"]).1;
        let here = |path: &str| format!("\"{}{path}\"", dir.path().display());
        dir.folder("srv/debian").unwrap();
        let text = ["/srv/debian", "/var/lib/imserver", "/var/cache/imnode"]
            .iter()
            .fold(printed, |text, path| text.replace(&format!("\"{path}\""), &here(path)));
        std::fs::write(&file, text).unwrap();
        let (code, transcript) = say(program, &["--config", file.to_str().unwrap(), "--check-config"]);
        assert_eq!(code, Some(0), "{transcript}");
        assert!(!transcript.contains("note: ") || program == "imserver" && transcript.contains("imserver init"));
        assert!(say(program, &["--help"]).1.contains("Examples:"));
    }
}

#[test]
fn from_nothing_to_a_listed_snapshot() {
    let dir = TestDir::new("e2e-newcomer").unwrap();
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("file"), "content").unwrap();
    let here = dir.folder("here").unwrap();
    let run = |arguments: &[&str]| {
        let mut command = clean_command(binary("imserver").unwrap().to_str().unwrap());
        let finished = run_any(command.current_dir(&here).args(arguments), LIMIT).unwrap();
        assert!(finished.status.success(), "{arguments:?}: {}", finished.transcript());
        finished.transcript()
    };
    let said = run(&["init", "--repository", &format!("mine={}", source.display())]);
    assert!(said.contains("trust = [\"ed25519:"), "{said}");
    assert!(run(&["publish"]).contains("1 file,"));
    assert!(run(&["publish"]).contains("nothing has changed"));
    std::fs::write(source.join("second"), "more").unwrap();
    // On a terminal a bar says how far it is, and what is no terminal gets no control characters.
    let publish = format!(
        "{} publish mine --note 'the second one'",
        binary("imserver").unwrap().display()
    );
    let mut terminal = clean_command("script");
    terminal
        .args(["--quiet", "--return", "--command", &publish, "/dev/null"])
        .env("TERM", "xterm");
    let drawn = run_any(terminal.current_dir(&here), LIMIT).unwrap().transcript();
    assert!(drawn.contains("publish mine") && drawn.contains("files"), "{drawn}");
    assert!(!drawn.contains("0/0") && drawn.contains('\u{1b}'), "{drawn}");
    assert!(!run(&["publish"]).contains('\u{1b}'));
    let differs = run(&["snapshot", "diff", "mine", "current~1"]);
    assert!(
        differs.contains("+ second  (4 B)") && differs.contains("1 entry added (4 B)"),
        "{differs}"
    );
    let differs = run(&["snapshot", "diff", "mine", "current", "current~1", "--json"]);
    let text = &differs[differs.find("{\"repository\"").unwrap()..=differs.rfind('}').unwrap()];
    let shown: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(
        (&shown["differences"][0]["path"], &shown["differences"][0]["kind"]),
        (&"second".into(), &"removed".into())
    );
    assert_eq!(shown["summary"]["removed"]["bytes"], 4);
    let list = run(&["snapshot", "list", "mine"]);
    assert_eq!(list.lines().count(), 2, "{list}");
    assert!(
        list.lines().nth(1).unwrap().contains("current") && list.contains("the second one"),
        "{list}"
    );
    let shown = run(&["snapshot", "show", "mine"]);
    assert!(
        shown.contains("2 (11 B)") && shown.contains("the second one"),
        "{shown}"
    );
}

#[test]
fn unknown_repositories_and_snapshots_are_named_with_what_there_is() {
    let dir = TestDir::new("e2e-unknown").unwrap();
    let source = dir.folder("source").unwrap();
    let master = Master::new(&dir, &[("known", &source)]);
    let (_, said) = master.fail(&["publish", "unknown"]);
    assert!(said.contains("'unknown'") && said.contains("known"), "{said}");
    let (_, said) = master.fail(&["snapshot", "list", "known"]);
    assert!(said.contains("never published"), "{said}");
    master.publish("known");
    let (_, said) = master.fail(&["snapshot", "show", "known", "00000000-0000-4000-8000-000000000000"]);
    assert!(said.contains("imserver snapshot list"), "{said}");
    let (_, said) = master.fail(&["status"]);
    assert!(said.contains("is it running"), "{said}");
}
