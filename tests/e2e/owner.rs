//! A store that belongs to the user of a daemon: what root may not do in it, and what that user may not read.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use instantmirror_testkit::command::{clean_command, run, run_any};
use instantmirror_testkit::http;
use instantmirror_testkit::process::{Daemon, TestDir, binary, poll};

use crate::world::{LIMIT, Master, Node};

const NOBODY: &str = "65534";

/// A program that another user can run, wherever the build directory is.
fn program(dir: &TestDir, name: &str) -> std::path::PathBuf {
    let program = dir.path().join(name);
    // By another process: a file that this one has open for writing, and with it whoever it forks just then, cannot be run.
    run(clean_command("cp").args([&binary(name).unwrap(), &program]), LIMIT).unwrap();
    program
}

fn as_nobody(program: &Path) -> Command {
    let mut command = clean_command("setpriv");
    command
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
        .arg(program);
    command
}

fn give_to_nobody(path: &Path) {
    run(clean_command("chown").args(["-R", "65534:65534"]).arg(path), LIMIT).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The command that a refusal says to use instead.
fn advised(said: &str) -> String {
    let advice = said.split("Run it as that user: ").nth(1);
    let advice = advice.unwrap_or_else(|| panic!("no advice in {said}"));
    advice.lines().next().unwrap().to_owned()
}

#[test]
fn root_does_not_write_into_the_store_of_another_user_and_says_how_to() {
    let dir = TestDir::new("e2e-owner").unwrap();
    chmod(dir.path(), 0o755);
    let source = dir.folder("source").unwrap();
    std::fs::write(source.join("file"), "content").unwrap();
    let master = Master::new(&dir, &[("r", &source)]);
    let store = master.dir.join("store");
    give_to_nobody(&store);
    let imserver = program(&dir, "imserver");
    let root = |arguments: &[&str]| {
        let mut command = clean_command(imserver.to_str().unwrap());
        let finished = run_any(command.arg("--config").arg(&master.config).args(arguments), LIMIT).unwrap();
        (finished.status.success(), finished.transcript())
    };
    for refused in [
        ["init"].as_slice(),
        &["publish", "r"],
        &["serve"],
        &["key", "rotate"],
        &["node", "add", "mirror"],
        &["keygen", store.join("key2").to_str().unwrap()],
    ] {
        let (is_done, said) = root(refused);
        assert!(
            !is_done && said.contains("belongs to user 'nobody'"),
            "{refused:?}: {said}"
        );
    }
    assert!(!store.join("key2").exists());
    // The very command that was advised, with a umask that hides from others.
    let (_, said) = root(&["publish", "r"]);
    let advice = advised(&said);
    assert!(advice.starts_with("runuser -u nobody -- "), "{advice}");
    run(clean_command("sh").arg("-c").arg(format!("umask 077; {advice}")), LIMIT).unwrap();
    let of_root = run(clean_command("find").arg(&store).args(["-uid", "0"]), LIMIT).unwrap();
    assert_eq!(of_root.text(), "");
    let (is_done, said) = root(&["retention"]);
    assert!(!is_done && said.contains("belongs to user 'nobody'"), "{said}");
    let (is_done, said) = root(&["snapshot", "list", "r"]);
    assert!(is_done, "reading is for everybody: {said}");
    let mut serve = as_nobody(&imserver);
    let log = master.dir.join("serve.log");
    let mut daemon = Daemon::start("imserver", serve.arg("--config").arg(&master.config).arg("serve"), &log).unwrap();
    let listening = daemon.wait_for_line("http://", LIMIT).unwrap();
    let url = listening.split("http://").nth(1).unwrap();
    let url = format!("http://{}", url.split([' ', '/', ',']).next().unwrap());
    let shown = poll(LIMIT, || http::get(&format!("{url}/r/snap/current/file")).ok()).unwrap();
    assert_eq!(shown.text(), "content");
    assert!(daemon.terminate(LIMIT).unwrap().success());
    // A cache likewise.
    let node = Node::configure(&dir, &url, &master.key, &["r"], "1 GiB");
    let cache = dir.path().join("node/cache");
    std::fs::create_dir_all(&cache).unwrap();
    give_to_nobody(&cache);
    let (_, said) = node.fail(&["run"]);
    assert!(advised(&said).contains("imnode"), "{said}");
}

#[test]
fn what_the_publisher_may_not_read_is_refused_or_left_out() {
    let dir = TestDir::new("e2e-unreadable-user").unwrap();
    chmod(dir.path(), 0o755);
    let source = dir.folder("source").unwrap();
    for path in ["open", "key", "closed/file"] {
        let path = source.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "content").unwrap();
    }
    chmod(&source.join("key"), 0o600);
    chmod(&source.join("closed"), 0o700);
    let master = Master::with_options(&dir, &[("r", &source)], "private = \"publish\"");
    give_to_nobody(&master.dir.join("store"));
    let imserver = program(&dir, "imserver");
    let publish = || {
        let mut command = as_nobody(&imserver);
        command.arg("--config").arg(&master.config).args(["publish", "r"]);
        run_any(&mut command, LIMIT).unwrap()
    };
    let refused = publish();
    let said = refused.transcript();
    assert!(!refused.status.success() && said.contains("2 path(s)"), "{said}");
    for part in ["key: ", "closed: ", "Permission denied", "unpublishable = \"skip\""] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    let text = std::fs::read_to_string(&master.config).unwrap();
    std::fs::write(&master.config, text + "unpublishable = \"skip\"\n").unwrap();
    let done = publish();
    let said = done.transcript();
    assert!(done.status.success() && said.contains("1 file, "), "{said}");
    assert!(
        said.contains("left out: closed: ") && said.contains("left out: key: "),
        "{said}"
    );
}
