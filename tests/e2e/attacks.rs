//! The attacks that The Update Framework lists, on a running mirror: by a man in the middle, and by somebody who has
//! been at the mirror's own disk. What is refused leaves no trace there.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use instantmirror::core::{Clock as _, Head, SecretKey, SignedHead};
use instantmirror_testkit::http;
use instantmirror_testkit::process::{TestDir, poll};

use crate::world::{LIMIT, Master, Node};

/// Where the heads of many repositories are asked for.
const HEADS: &str = "/.im/v1/heads";

/// What the man in the middle does with a request.
#[derive(Clone)]
enum Reply {
    Pass,
    Body(Vec<u8>),
    /// The same again and again.
    Endless(Vec<u8>),
    NothingNewer,
}

type Choose = Box<dyn Fn(&str) -> Reply + Send>;

/// Stands between mirror and master.
struct Middle {
    address: SocketAddr,
    choose: Arc<Mutex<Choose>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    stop: Arc<AtomicBool>,
}

impl Middle {
    fn new(master: &Master) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let master: SocketAddr = master.url().trim_start_matches("http://").parse().unwrap();
        let middle = Self {
            address: listener.local_addr().unwrap(),
            choose: Arc::new(Mutex::new(Box::new(|_| Reply::Pass))),
            open: Arc::default(),
            stop: Arc::default(),
        };
        let (choose, open, stop) = (middle.choose.clone(), middle.open.clone(), middle.stop.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                open.lock().unwrap().push(client.try_clone().unwrap());
                let choose = choose.clone();
                // A mirror that hangs up ends its thread by an error, which is as it should be.
                std::thread::spawn(move || _ = serve(client, master, &choose));
            }
        });
        middle
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on requests are answered so; those that are being answered are cut.
    fn set(&self, choose: impl Fn(&str) -> Reply + Send + 'static) {
        *self.choose.lock().unwrap() = Box::new(choose);
        for client in self.open.lock().unwrap().drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Middle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.set(|_| Reply::NothingNewer);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut client: TcpStream, master: SocketAddr, choose: &Mutex<Choose>) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        if client.read(&mut byte)? == 0 {
            return Ok(());
        }
        request.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    let length = text.to_ascii_lowercase();
    let length = length
        .split("content-length: ")
        .nth(1)
        .and_then(|rest| rest.split('\r').next());
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    client.read_exact(&mut body)?;
    let path = text.split(' ').nth(1).unwrap_or_default();
    let reply = choose.lock().unwrap()(path);
    if matches!(reply, Reply::Pass) && path.starts_with(HEADS) {
        // A man in the middle has more to say where each head is asked for.
        client.write_all(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        return client.shutdown(Shutdown::Both);
    }
    let header = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
    match reply {
        Reply::Pass => {
            let mut upstream = TcpStream::connect(master)?;
            upstream.write_all(text.replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes())?;
            upstream.write_all(&body)?;
            std::io::copy(&mut upstream, &mut client)?;
        }
        Reply::Body(body) => {
            client.write_all(format!("{header}Content-Length: {}\r\n\r\n", body.len()).as_bytes())?;
            client.write_all(&body)?;
        }
        Reply::Endless(part) => {
            client.write_all(format!("{header}\r\n").as_bytes())?;
            let block = part.repeat(1 + 65536 / part.len());
            loop {
                client.write_all(&block)?;
            }
        }
        Reply::NothingNewer => {
            // Like a master that has nothing; a little sooner.
            std::thread::sleep(Duration::from_millis(200));
            client.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")?;
        }
    }
    client.shutdown(Shutdown::Both)
}

struct World {
    dir: TestDir,
    master: Master,
    middle: Middle,
    node: Node,
    /// Heads and records of the repository, oldest first.
    heads: Vec<Vec<u8>>,
    records: Vec<Vec<u8>>,
    current: String,
}

impl World {
    /// A master of `r` with two snapshots and `other` with one, mirrored through a man in the middle.
    fn new(name: &str) -> Self {
        let dir = TestDir::new(name).unwrap();
        let (source, other) = (dir.folder("source").unwrap(), dir.folder("other").unwrap());
        std::fs::write(other.join("file"), "of another repository").unwrap();
        let mut master = Master::new(&dir, &[("r", &source), ("other", &other)]);
        master.serve();
        let (mut heads, mut records, mut current) = (Vec::new(), Vec::new(), String::new());
        for content in ["one", "two"] {
            std::fs::write(source.join("file"), content).unwrap();
            current = master.publish("r");
            let get = |path: String| {
                let url = format!("{}/.im/v1/r/{path}", master.url());
                let found = poll(LIMIT, || http::get(&url).ok().filter(|answer| answer.status == 200));
                found.unwrap().body
            };
            records.push(get(format!("snapshots/{current}")));
            heads.push(get("head".to_owned()));
        }
        master.publish("other");
        let middle = Middle::new(&master);
        let mut node = Node::configure(&dir, &middle.url(), &master.key, &["r", "other"], "1 GiB");
        node.run();
        node.wait_for("r", &current);
        let world = Self {
            dir,
            master,
            middle,
            node,
            heads,
            records,
            current,
        };
        // Nothing is under way any more.
        let whole = || -> Vec<u64> {
            let status = world.node.status();
            let repositories = status["repositories"].as_array().unwrap();
            repositories
                .iter()
                .filter_map(|repository| repository["snapshots"].as_u64())
                .collect()
        };
        poll(LIMIT, || (whole() == [1, 2]).then_some(())).unwrap_or_else(|| panic!("{}", world.node.status_text()));
        world
    }

    fn publish(&mut self, content: &str) -> String {
        std::fs::write(self.dir.path().join("source/file"), content).unwrap();
        self.master.publish("r")
    }

    fn trouble(&self) -> Option<String> {
        let status = self.node.status();
        let repositories = status["repositories"].as_array().unwrap();
        let ours = repositories
            .iter()
            .find(|repository| repository["name"] == "r")
            .unwrap();
        ours["last_error"].as_str().map(str::to_owned)
    }

    /// Waits until the mirror trusts the old and the new key of both repositories.
    fn learn_both_keys(&self, why: &str) {
        let trusted = || self.node.status_text().matches("in use since").count();
        let learned = poll(LIMIT, || (trusted() == 4).then_some(()));
        learned.unwrap_or_else(|| panic!("{why}: {}", self.node.status_text()));
    }

    fn snapshots(&self) -> PathBuf {
        self.node.dir.join("cache/snapshots")
    }

    /// An attack that must be refused for a reason with this word: nothing of it is on the disk, and what was shown is.
    fn refused(&self, word: &str, choose: impl Fn(&str) -> Reply + Send + 'static) {
        let before = content(&self.snapshots());
        self.middle.set(choose);
        let refused = poll(LIMIT, || self.trouble().filter(|trouble| trouble.contains(word)));
        refused.unwrap_or_else(|| panic!("not refused for '{word}': {}", self.node.status_text()));
        let after = content(&self.snapshots());
        assert_eq!(
            before.keys().collect::<Vec<_>>(),
            after.keys().collect::<Vec<_>>(),
            "{word}"
        );
        assert!(before == after, "{word}: the persisted state has changed");
        assert_eq!(self.node.get("/r/snap/current/file"), b"two", "{word}");
        self.middle.set(|_| Reply::Pass);
        let healed = poll(LIMIT, || self.trouble().is_none().then_some(()));
        healed.unwrap_or_else(|| panic!("{word}: {}", self.node.status_text()));
    }
}

/// Every file below a folder.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

fn is(path: &str, call: &str) -> bool {
    path.starts_with(&format!("/.im/v1/r/{call}"))
}

#[test]
fn a_man_in_the_middle_can_neither_roll_back_nor_mix_nor_send_without_end() {
    let world = World::new("e2e-attacks");
    let old = world.heads[0].clone();
    world.refused("rollback", move |path| {
        if is(path, "head") {
            Reply::Body(old.clone())
        } else {
            Reply::Pass
        }
    });
    let other = http::get(&format!("{}/.im/v1/other/head", world.master.url()))
        .unwrap()
        .body;
    world.refused("it is the head of 'other'", move |path| {
        if is(path, "head") {
            Reply::Body(other.clone())
        } else {
            Reply::Pass
        }
    });
    let mut altered = world.heads[1].clone();
    let at = altered.len() / 3;
    altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
    world.refused("was refused", move |path| {
        if is(path, "head") {
            Reply::Body(altered.clone())
        } else {
            Reply::Pass
        }
    });
    let stranger = sign(&SecretKey::from_random([9; 32]), &world, |_| {});
    world.refused("no signature by a trusted key", move |path| {
        if is(path, "head") {
            Reply::Body(stranger.clone())
        } else {
            Reply::Pass
        }
    });
    world.refused("more than 16777216 bytes", |path| {
        if is(path, "head") {
            Reply::Endless(b"{ ".to_vec())
        } else {
            Reply::Pass
        }
    });
    world.refused("more than 96256 bytes", |path| {
        if path.starts_with(HEADS) {
            Reply::Endless(b"r 9\n".to_vec())
        } else {
            Reply::Pass
        }
    });
    assert!(world.node.status_text().contains(&world.current));
}

/// The next head, changed and signed.
fn sign(key: &SecretKey, world: &World, change: impl FnOnce(&mut Head)) -> Vec<u8> {
    let trusted = [world.master.key.parse().unwrap()];
    let bytes = world.heads.last().unwrap().clone();
    let mut head = SignedHead::verify(bytes.into(), &"r".parse().unwrap(), &trusted)
        .unwrap()
        .head()
        .clone();
    head.sequence += 1;
    change(&mut head);
    head.sign(&[key]).unwrap().bytes().to_vec()
}

#[test]
fn a_man_in_the_middle_cannot_put_another_snapshot_or_catalog_in_the_place_of_a_signed_one() {
    let mut world = World::new("e2e-attacks-mix");
    let (forged, other) = (world.records[0].clone(), "no catalog".as_bytes().to_vec());
    // A frame that is passed over, again and again: nothing ever comes out of it.
    let skipped = [&0x184D_2A50_u32.to_le_bytes()[..], &1000_u32.to_le_bytes(), &[0; 1000]].concat();
    let trees: Vec<serde_json::Value> = world
        .records
        .iter()
        .map(|record| serde_json::from_slice(record).unwrap())
        .collect();
    let old_tree = trees[0]["root"]["node"].as_str().unwrap();
    let old_catalog = http::get(&format!("{}/.im/v1/r/catalog/{old_tree}", world.master.url()))
        .unwrap()
        .body;
    let records = |world: &World| content(&world.snapshots().join("records"));
    for (content_number, (call, reply, word)) in [
        ("snapshots", Reply::Body(forged), "record"),
        ("snapshots", Reply::Endless(b" ".to_vec()), "more than"),
        ("catalog", Reply::Body(old_catalog), "catalog"),
        ("catalog", Reply::Body(other), "protocol"),
        ("catalog", Reply::Endless(skipped), "decompressed"),
    ]
    .into_iter()
    .enumerate()
    {
        let (before, shown) = (records(&world), world.current.clone());
        world
            .middle
            .set(move |path| if is(path, call) { reply.clone() } else { Reply::Pass });
        let next = world.publish(&format!("content {content_number}"));
        let refused = poll(LIMIT, || world.trouble().filter(|trouble| trouble.contains(word)));
        refused.unwrap_or_else(|| panic!("{call} {word}: {}", world.node.status_text()));
        assert!(before == records(&world), "{call} {word}: a record was stored");
        assert!(world.node.status_text().contains(&shown), "what was current stays");
        world.middle.set(|_| Reply::Pass);
        world.node.wait_for("r", &next);
        world.current = next;
    }
}

#[test]
fn a_mirror_that_is_kept_from_news_says_so_when_its_head_expires_and_serves_on() {
    let mut world = World::new("e2e-attacks-freeze");
    let key: SecretKey = std::fs::read_to_string(world.master.dir.join("store/key"))
        .unwrap()
        .parse()
        .unwrap();
    let now = instantmirror::clock::SystemClock.now();
    let short = sign(&key, &world, |head| {
        (head.issued, head.expires) = (now, now.plus(Duration::from_secs(4)));
    });
    world.middle.set(move |path| {
        if is(path, "head") {
            Reply::Body(short.clone())
        } else {
            Reply::Pass
        }
    });
    let adopted = poll(LIMIT, || world.node.status_text().contains("head     3,").then_some(()));
    adopted.unwrap_or_else(|| panic!("{}", world.node.status_text()));
    world.middle.set(|path| {
        if is(path, "head") {
            Reply::NothingNewer
        } else {
            Reply::Pass
        }
    });
    let said = world.node.daemon().wait_for_line("EXPIRED: head 3", LIMIT).unwrap();
    assert!(said.contains("is served on"), "{said}");
    assert!(
        world.node.status_text().contains(", EXPIRED"),
        "{}",
        world.node.status_text()
    );
    assert_eq!(world.node.get("/r/snap/current/file"), b"two");
    // The attack ends: the master's own next heads are followed.
    world.middle.set(|_| Reply::Pass);
    world.publish("three");
    let next = world.publish("four");
    world.node.wait_for("r", &next);
    assert_eq!(
        world.node.daemon().log().matches("EXPIRED: head").count(),
        1,
        "said once"
    );
}

#[test]
fn key_lists_that_are_forged_or_endless_change_nothing() {
    let world = World::new("e2e-attacks-keys");
    let new_key = world.master.run(&["key", "rotate"]).text();
    world.learn_both_keys("the honest way works");
    let lists = http::get(&format!("{}/.im/v1/r/keys", world.master.url()))
        .unwrap()
        .body;
    let before = content(&world.snapshots().join("keys"));
    for reply in [
        Reply::Endless(lists.clone()),
        Reply::Body(b"no list\n".to_vec()),
        Reply::Body([lists.as_slice(), b"{}\n"].concat()),
        Reply::Body(Vec::new()),
    ] {
        // A head of a key that nobody knows makes the mirror ask for the lists.
        let stranger = sign(&SecretKey::from_random([9; 32]), &world, |head| head.sequence += 10);
        world.middle.set(move |path| match path {
            path if is(path, "head") => Reply::Body(stranger.clone()),
            path if is(path, "keys") => reply.clone(),
            _ => Reply::Pass,
        });
        let refused = poll(LIMIT, || {
            world
                .trouble()
                .filter(|trouble| trouble.contains("no signature by a trusted key"))
        });
        refused.unwrap_or_else(|| panic!("{}", world.node.status_text()));
        assert!(before == content(&world.snapshots().join("keys")));
        world.middle.set(|_| Reply::Pass);
        let healed = poll(LIMIT, || world.trouble().is_none().then_some(()));
        healed.unwrap_or_else(|| panic!("{}", world.node.status_text()));
    }
    assert!(world.node.status_text().contains(new_key.split(' ').next().unwrap()));
}

#[test]
fn whatever_somebody_put_into_the_mirrors_own_store_is_said_and_mended() {
    let mut world = World::new("e2e-attacks-cache");
    world.master.run(&["key", "rotate"]);
    world.learn_both_keys("the key is learned");
    let third = world.publish("three");
    world.node.wait_for("r", &third);
    world.node.stop(true);
    let store = world.snapshots();
    let read = |path: &str| std::fs::read(store.join(path)).unwrap();
    let record = format!("records/r/{third}.record");
    let other_record = format!("records/r/{}.record", world.current);
    let huge = vec![b'x'; 17 << 20];
    let stranger = sign(&SecretKey::from_random([9; 32]), &world, |head| {
        head.sequence = 1_700_000_000_000;
    });
    let hash = instantmirror::core::ObjectId::of(&stranger);
    let ahead = [
        format!("instantmirror head 1 1700000000000 {hash}\n").as_bytes(),
        &stranger,
    ]
    .concat();
    let old_hash = instantmirror::core::ObjectId::of(&world.heads[0]);
    let older = [
        format!("instantmirror head 1 1 {old_hash}\n").as_bytes(),
        &world.heads[0],
    ]
    .concat();
    for (what, path, planted, is_said) in [
        (
            "the head of another repository",
            "heads/r.head",
            read("heads/other.head"),
            true,
        ),
        ("an older head", "heads/r.head", older, false),
        (
            "half a head",
            "heads/r.head",
            read("heads/r.head")[..300].to_vec(),
            true,
        ),
        ("an endless head", "heads/r.head", huge.clone(), true),
        (
            "a head that none could follow, of a stranger",
            "heads/r.head",
            ahead,
            true,
        ),
        ("another record", record.as_str(), read(&other_record), true),
        (
            "other key lists",
            "keys/r.keys",
            b"instantmirror keys 1 00\n".to_vec(),
            true,
        ),
        ("endless key lists", "keys/r.keys", huge, true),
    ] {
        std::fs::write(store.join(path), planted).unwrap();
        world.node.run();
        world.node.wait_for("r", &third);
        world.learn_both_keys(what);
        assert_eq!(world.node.get("/r/snap/current/file"), b"three", "{what}");
        let log = world.node.daemon().log();
        assert_eq!(log.contains("ERROR"), is_said, "{what}:\n{log}");
        world.node.stop(true);
    }
}
