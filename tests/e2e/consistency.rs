//! Archives whose metadata does not agree with their files, made with the tools that people make archives with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use instantmirror_testkit::debian::Archive;
use instantmirror_testkit::process::{TestDir, poll};
use instantmirror_testkit::yum::Repository;

use crate::publish::control;
use crate::world::{LIMIT, Master};

/// The package files of a yum repository by the names that its metadata uses.
fn rpm(repository: &Repository, package: &str) -> (PathBuf, String) {
    let file = repository.package_file(package).unwrap();
    let name = format!("Packages/{}", file.file_name().unwrap().to_str().unwrap());
    (file, name)
}

/// A publish that must be refused for this reason; nothing else may be wrong, and nothing may change.
fn refused(master: &Master, repository: &str, faults: &[&str]) {
    let live = master.live(repository);
    // A dry run reads what is new from the source tree, and comes to the same.
    let (code, announced) = master.fail(&["publish", repository, "--dry-run"]);
    assert!(code == 1 && announced.contains("would be refused"), "{announced}");
    let (code, said) = master.fail(&["publish", repository]);
    assert_eq!(code, 1);
    for fault in faults {
        assert!(said.contains(fault), "{fault} is not in\n{said}");
        assert!(announced.contains(fault), "{fault} is not in\n{announced}");
    }
    let count = format!("({} found)", faults.len());
    assert!(said.contains(&count) && said.contains("--no-check"), "{said}");
    assert_eq!(master.live(repository), live, "a refused publish leaves no snapshot");
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_yum_repository_that_names_missing_or_different_files_is_refused() {
    let dir = TestDir::new("e2e-check-yum").unwrap();
    let tree = dir.folder("tree").unwrap();
    let repository = Repository::build(&tree.join("os")).unwrap();
    let master = Master::new(&dir, &[("yum", &tree)]);
    master.publish("yum");

    let (file, name) = rpm(&repository, "im-beta");
    let content = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    refused(&master, "yum", &[&format!(".gz: names {name}, which is missing")]);
    std::fs::write(&file, &content[1..]).unwrap();
    let (is, stated) = (content.len() - 1, content.len());
    refused(
        &master,
        "yum",
        &[&format!("names {name}, which has {is} bytes instead of {stated}")],
    );
    let mut other = content.clone();
    other[stated / 2] ^= 1;
    std::fs::write(&file, &other).unwrap();
    refused(&master, "yum", &[&format!("names {name}, which has another SHA-256")]);

    // What nobody names may come and go, but what is wrong stays wrong until it is mended.
    std::fs::write(tree.join("readme"), "1").unwrap();
    refused(&master, "yum", &[&name]);
    assert!(
        master
            .run(&["publish", "yum", "--no-check"])
            .text()
            .contains("yum: snapshot ")
    );
    std::fs::write(tree.join("readme"), "2").unwrap();
    refused(&master, "yum", &[&name]);
    std::fs::write(&file, &content).unwrap();
    master.publish("yum");

    // Half of a sync: the new packages with the old metadata, then the new repomd.xml with the old index.
    let old = dir.folder("old").unwrap();
    copy_folder(&tree.join("os/repodata"), &old);
    let (_, gone) = rpm(&repository, "im-alpha");
    repository.publish("im-alpha", "2.0").unwrap();
    let new = dir.folder("new").unwrap();
    copy_folder(&tree.join("os/repodata"), &new);
    std::fs::remove_dir_all(tree.join("os/repodata")).unwrap();
    copy_folder(&old, &tree.join("os/repodata"));
    refused(&master, "yum", &[&format!("names {gone}, which is missing")]);
    std::fs::copy(new.join("repomd.xml"), tree.join("os/repodata/repomd.xml")).unwrap();
    let (_, said) = master.fail(&["publish", "yum"]);
    assert!(
        said.contains("os/repodata/repomd.xml: names repodata/") && said.contains("which is missing"),
        "{said}"
    );
    copy_folder(&new, &tree.join("os/repodata"));
    master.publish("yum");

    std::fs::write(tree.join("os/repodata/repomd.xml"), "<repomd><data>").unwrap();
    refused(&master, "yum", &["os/repodata/repomd.xml: it ends at byte 14"]);
}

#[test]
fn a_debian_archive_that_names_missing_or_different_files_is_refused() {
    let dir = TestDir::new("e2e-check-debian").unwrap();
    let archive = Archive::build(&dir.folder("archive").unwrap()).unwrap();
    let tree = archive.root().to_path_buf();
    let master = Master::new(&dir, &[("debian", &tree)]);
    master.publish("debian");
    let binary = format!("dists/stable/main/binary-{}", archive.architecture());

    let file = archive.package_file("hello").unwrap();
    let name = file.strip_prefix(&tree).unwrap().to_str().unwrap().to_owned();
    let content = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    refused(
        &master,
        "debian",
        &[&format!("{binary}/Packages: names {name}, which is missing")],
    );
    let mut other = content.clone();
    other[content.len() / 2] ^= 1;
    std::fs::write(&file, &other).unwrap();
    refused(
        &master,
        "debian",
        &[&format!("names {name}, which has another SHA-256")],
    );
    std::fs::write(&file, &content).unwrap();

    // Half of a sync: the new pool and indices with the old release file.
    let release = std::fs::read(tree.join("dists/stable/Release")).unwrap();
    archive.upgrade("hello").unwrap();
    let new = std::fs::read(tree.join("dists/stable/Release")).unwrap();
    std::fs::write(tree.join("dists/stable/Release"), release).unwrap();
    let (_, said) = master.fail(&["publish", "debian"]);
    for form in ["Packages", "Packages.gz", "Packages.xz"] {
        assert!(
            said.contains(&format!(
                "dists/stable/Release: names main/binary-{}/{form}, which has",
                archive.architecture()
            )),
            "{said}"
        );
    }
    std::fs::write(tree.join("dists/stable/Release"), new).unwrap();
    master.publish("debian");

    // What a mirror leaves out is no fault: one form of an index is enough, and each is read.
    for form in ["Packages", "Packages.gz"] {
        std::fs::remove_file(tree.join(&binary).join(form)).unwrap();
        master.publish("debian");
    }
    let file = archive.package_file("sl").unwrap();
    let content = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    refused(&master, "debian", &[&format!("{binary}/Packages.xz: names ")]);
    std::fs::write(&file, content).unwrap();
    std::fs::remove_file(tree.join(&binary).join("Packages.xz")).unwrap();
    refused(
        &master,
        "debian",
        &[&format!("names {binary}/Packages, in no form, which is missing")],
    );
    std::fs::remove_dir_all(tree.join(&binary)).unwrap();
    master.publish("debian");
}

#[test]
fn the_check_is_configured_per_repository_and_the_same_for_build_systems() {
    let dir = TestDir::new("e2e-check-config").unwrap();
    let tree = dir.folder("tree").unwrap();
    let repository = Repository::build(&tree).unwrap();
    let (file, name) = rpm(&repository, "im-alpha");
    let content = std::fs::read(&file).unwrap();
    let mut master = Master::new(&dir, &[("yum", &tree)]);
    master.publish("yum");
    std::fs::remove_file(&file).unwrap();
    master.serve();
    let live = master.live("yum");
    let (status, answer) = control(&master, "/.im/publish/yum", "");
    let error = answer["error"].as_str().unwrap();
    assert!(
        status == 422 && error.contains(&format!("names {name}, which is missing")),
        "{answer}"
    );
    assert_eq!(master.live("yum"), live);
    let (status, answer) = control(&master, "/.im/publish/yum", r#"{"no_check": true}"#);
    assert_eq!((status, &answer["published"]), (200, &true.into()), "{answer}");
    master.stop(false);

    master.configure("check = \"warn\"");
    std::fs::write(tree.join("readme"), "1").unwrap();
    let said = master.run(&["publish", "yum"]).transcript();
    assert!(
        said.contains("published although") && said.contains(&format!("names {name}, which is missing")),
        "{said}"
    );
    let text = std::fs::read_to_string(&master.config).unwrap();
    std::fs::write(&master.config, text.replace("\"warn\"", "\"off\"")).unwrap();
    std::fs::write(tree.join("readme"), "2").unwrap();
    let said = master.run(&["publish", "yum"]).transcript();
    assert!(!said.contains("which is missing"), "{said}");
    std::fs::write(&master.config, text.replace("\"warn\"", "\"never\"")).unwrap();
    let (code, said) = master.fail(&["publish", "yum"]);
    assert!(code == 2 && said.contains("unknown value `never`"), "{said}");
    std::fs::write(&master.config, text.replace("\"warn\"", "\"refuse\"")).unwrap();
    std::fs::write(tree.join("readme"), "3").unwrap();
    refused(&master, "yum", &[&name]);
    std::fs::write(&file, content).unwrap();
    master.publish("yum");
}

#[test]
fn a_watch_waits_until_the_metadata_agrees_and_complains_once() {
    let dir = TestDir::new("e2e-check-watch").unwrap();
    let tree = dir.folder("tree").unwrap();
    let repository = Repository::build(&tree).unwrap();
    let (file, name) = rpm(&repository, "im-alpha");
    let content = std::fs::read(&file).unwrap();
    let master = Master::new(&dir, &[("yum", &tree)]);
    let mut watch = master.start(&["watch", "yum", "--settle", "200ms"], "watch");
    watch.wait_for_line("10 files", LIMIT).unwrap();
    let first = master.live("yum");
    std::fs::remove_file(&file).unwrap();
    watch
        .wait_for_line("It is tried again when something changes", LIMIT)
        .unwrap();
    std::fs::write(tree.join("readme"), "1").unwrap();
    watch.wait_for_line("still not published", LIMIT).unwrap();
    assert_eq!(
        watch.log().matches(&format!("names {name}, which is missing")).count(),
        1
    );
    assert_eq!(master.live("yum"), first);
    std::fs::write(&file, content).unwrap();
    let published = poll(Duration::from_secs(60), || {
        (master.live("yum").len() == 2).then_some(())
    });
    published.expect("what was mended is published");
    assert!(watch.terminate(LIMIT).unwrap().success());
    assert!(
        master.run(&["publish", "yum"]).text().contains("nothing has changed"),
        "with all that came before"
    );
}
