//! What of a source tree is published: excluded paths, modes, symlinks, unreadable files, as an operator and readers see it.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use instantmirror_testkit::command::{clean_command, run};
use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, poll};

use crate::publish::control;
use crate::world::{LIMIT, Master};

fn write(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, path.to_str().unwrap()).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_is_closed_or_excluded_stays_out_until_it_is_opened() {
    let dir = TestDir::new("e2e-source-rules").unwrap();
    let source = dir.folder("source").unwrap();
    for path in [
        "open/file",
        "release/iso",
        "release/deep/sum",
        "key",
        "lost+found/x",
        "open/half.part",
    ] {
        write(&source.join(path));
    }
    chmod(&source.join("release"), 0o750);
    chmod(&source.join("key"), 0o600);
    chmod(&source.join("lost+found"), 0o700);
    symlink(source.join("open/file"), source.join("release/latest")).unwrap();
    symlink("/etc/hostname", source.join("away")).unwrap();
    symlink("nothing", source.join("broken")).unwrap();
    let options = "exclude = [\"lost+found/\", \"*.part\"]\nsymlinks = \"rewrite\"";
    let mut master = Master::with_options(&dir, &[("r", &source)], options);
    let said = master.run(&["publish", "r"]);
    for part in [
        "1 files",
        "left out: 2 excluded, the first is lost+found",
        "left out: 2 private, the first is key: closed to others (mode 0600)",
        "symlinks out of the tree: 1, such as away -> /etc/hostname",
        "symlinks to what is not there or not published: 1, such as broken -> nothing",
    ] {
        assert!(said.text().contains(part), "{part}\n{}", said.transcript());
    }
    master.serve();
    let base = format!("{}/r/snap/current", master.url());
    let status = |path: &str| http::get(&format!("{base}/{path}")).unwrap().status;
    for path in ["key", "release/", "release/iso", "lost+found/x", "open/half.part"] {
        assert_eq!(status(path), 404, "{path}");
    }
    // The day of the release: nothing but a mode changes, and the watch takes it up.
    let mut watch = master.start(&["watch", "r", "--settle", "200ms"], "watch");
    watch.wait_for_line("nothing has changed", LIMIT).unwrap();
    chmod(&source.join("release"), 0o755);
    poll(LIMIT, || (status("release/deep/sum") == 200).then_some(())).expect("the release opens");
    let copy = dir.path().join("latest");
    let mut wget = clean_command("wget");
    run(
        wget.args(["-q", "-O"]).arg(&copy).arg(format!("{base}/release/latest")),
        LIMIT,
    )
    .unwrap();
    assert_eq!(
        std::fs::read(&copy).unwrap(),
        std::fs::read(source.join("open/file")).unwrap()
    );
    assert!(watch.terminate(LIMIT).unwrap().success());
    // A full scan comes to the same.
    let said = master.run(&["publish", "r"]).transcript();
    assert!(said.contains("nothing has changed"), "{said}");
    write(&source.join("open/more"));
    let (_, done) = control(&master, "/.im/publish/r", r#"{"changed": ["open", "key"]}"#);
    assert_eq!(
        done["details"]["left_out"]["private"]["examples"]["key"],
        "closed to others (mode 0600)"
    );
    assert_eq!(done["details"]["left_out"]["excluded"]["count"], 1, "{done}");
    // As a file system without modes shows it: nothing could be published.
    for path in ["open", "release"] {
        chmod(&source.join(path), 0o700);
    }
    let (code, said) = master.fail(&["publish", "r"]);
    assert!(code == 1 && said.contains("set private = \"publish\""), "{said}");
    master.run(&["publish", "r", "--allow-empty"]);
    let text = std::fs::read_to_string(&master.config).unwrap();
    std::fs::write(&master.config, text.clone() + "private = \"publish\"\n").unwrap();
    // The rules are others: hints are no ground to take over the rest.
    let said = master.run(&["publish", "r", "--changed", "key"]).transcript();
    assert!(said.contains("rules are others") && said.contains("5 files"), "{said}");
    std::fs::write(&master.config, text + "private = \"refuse\"\n").unwrap();
    let (_, said) = master.fail(&["publish", "r"]);
    assert!(
        said.contains("3 path(s)") && said.contains("release: closed to others (mode 0700)"),
        "{said}"
    );
}
