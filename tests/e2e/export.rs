//! Lists made from a catalog, beside what the usual programs make of the tree itself.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use instantmirror_testkit::command::{clean_command, run};
use instantmirror_testkit::process::TestDir;

use crate::world::{LIMIT, Master};

/// What is called like metadata in these trees is none, and all modes are shown.
const UNCHECKED: &str = "check = \"off\"\nprivate = \"publish\"";

fn tree(source: &Path) {
    let now = SystemTime::now();
    let old = now - Duration::from_secs(400 * 86_400);
    for (path, size, mode, time) in [
        ("README", 5, 0o644, now),
        (".hidden", 0, 0o600, old),
        ("dists/stable/Release", 70_000, 0o664, old),
        ("pool/main/h/hello_1.0.deb", 123_456, 0o444, now),
        ("pool/main/h/name with  spaces", 1, 0o4755, old),
        ("repo/repodata/repomd.xml", 300, 0o644, now),
        ("Zed/a", 1, 0o2711, old),
        ("zed/ä", 4097, 0o1640, now),
    ] {
        let path = source.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, vec![b'x'; size]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
    }
    symlink("stable", source.join("dists/current")).unwrap();
    std::fs::create_dir(source.join("empty")).unwrap();
    std::fs::hard_link(source.join("README"), source.join("README.too")).unwrap();
}

/// A list of `ls -lR` without what a file system decides: blocks, links and bytes of directories, and with single spaces.
fn comparable(list: &str) -> Vec<String> {
    let line = |line: &str| {
        if line.starts_with("total ") {
            return "total".to_owned();
        }
        if !line.starts_with('d') {
            return line.to_owned();
        }
        let mut fields: Vec<&str> = line.split_whitespace().collect();
        (fields[1], fields[4]) = ("*", "*");
        fields.join(" ")
    };
    let squeezed = |line: String| {
        // Widths of columns follow the widest value, which may be a directory's.
        let (head, name) = line.split_at(line.len().min(11));
        format!("{head}{}", name.trim_start())
    };
    list.lines().map(line).map(squeezed).collect()
}

#[test]
fn ls_lr_is_what_ls_says() {
    let dir = TestDir::new("e2e-ls").unwrap();
    let source = dir.folder("source").unwrap();
    tree(&source);
    let master = Master::with_options(&dir, &[("r", &source)], UNCHECKED);
    master.publish("r");
    let ours = master.run(&["export", "r", "--format", "ls-lR"]).text();
    let mut ls = clean_command("ls");
    ls.args(["-lRAn", "."])
        .current_dir(&source)
        .env("LC_ALL", "C")
        .env("TZ", "UTC");
    let theirs = run(&mut ls, LIMIT).unwrap().text();
    // Owners are not kept: a catalog says 0, and so does ls where root runs the tests.
    let owner = source.metadata().unwrap();
    let theirs = theirs.replace(&format!(" {} {} ", owner.uid(), owner.gid()), " 0 0 ");
    assert_eq!(comparable(&ours), comparable(&theirs), "{ours}\n{theirs}");
    assert!(ours.starts_with(".:\ntotal "));
}

/// The sections of a list, read as a shell script of a mirror would.
fn sections(list: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut sections: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut name = "";
    for line in list.lines().filter(|line| !line.is_empty()) {
        if line.starts_with('[') {
            name = line;
            sections.entry(name).or_default();
        } else {
            sections.entry(name).or_default().push(line);
        }
    }
    sections
}

#[test]
fn a_fullfiletimelist_lists_every_path_once_with_time_and_size() {
    let dir = TestDir::new("e2e-timelist").unwrap();
    let source = dir.folder("source").unwrap();
    tree(&source);
    let master = Master::with_options(&dir, &[("r", &source)], UNCHECKED);
    let first = master.publish("r");
    let list = master.run(&["export", "r", "--format", "fullfiletimelist"]).text();
    let sections = sections(&list);
    assert_eq!(sections["[Version]"], ["2"]);
    assert!(list.ends_with("\n[End]\n"));
    let mut listed: Vec<String> = sections["[Files]"].iter().map(ToString::to_string).collect();
    let mut find = clean_command("find");
    find.args([".", "-mindepth", "1", "-printf", "%T@ %y %s %P\\n"])
        .current_dir(&source);
    let found = run(&mut find, LIMIT).unwrap().text();
    let mut expected: Vec<String> = found
        .lines()
        .map(|line| {
            let mut fields = line.splitn(4, ' ');
            let mut next = || fields.next().unwrap();
            let (time, kind, size, path) = (next(), next(), next(), next());
            let size = if kind == "d" { "4096" } else { size };
            format!("{}\t{kind}\t{size}\t{path}", time.split('.').next().unwrap())
        })
        .collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    let mut sum = clean_command("sha256sum");
    sum.arg("repo/repodata/repomd.xml").current_dir(&source);
    assert_eq!(
        sections["[Checksums SHA256]"],
        [run(&mut sum, LIMIT).unwrap().text().trim_end()]
    );

    // It is a list of that snapshot, and never of the tree.
    std::fs::remove_dir_all(source.join("pool")).unwrap();
    master.publish("r");
    let again = master
        .run(&["export", "r", "--format", "fullfiletimelist", "--snapshot", &first])
        .text();
    assert_eq!(again, list);
    let (_, said) = master.fail(&["export", "r", "--format", "tar"]);
    assert!(
        said.contains("the formats are fullfiletimelist, trace and ls-lR"),
        "{said}"
    );
}

#[test]
fn a_trace_says_when_the_snapshot_was_made() {
    let dir = TestDir::new("e2e-trace").unwrap();
    let source = dir.folder("source").unwrap();
    tree(&source);
    let master = Master::with_options(&dir, &[("r", &source)], UNCHECKED);
    let (_, said) = master.fail(&["export", "r", "--format", "trace"]);
    assert!(said.contains("never published"), "{said}");
    let id = master.publish("r");
    let trace = master.run(&["export", "r", "--format", "trace"]).text();
    let (first, rest) = trace.split_once('\n').unwrap();
    let seconds = |date: &str| -> u64 {
        let mut command = clean_command("date");
        command.args(["-u", "+%s", "-d", date]);
        run(&mut command, LIMIT).unwrap().text().trim().parse().unwrap()
    };
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!(now - seconds(first) < 120, "{first}");
    let fields: BTreeMap<&str, &str> = rest.lines().map(|line| line.split_once(": ").unwrap()).collect();
    assert_eq!(seconds(fields["Date"]), seconds(first));
    assert_eq!((fields["Snapshot"], fields["Total files"]), (id.as_str(), "9"));
    assert!(!fields["Running on host"].is_empty() && fields["Creator"].starts_with("InstantMirror"));
}
