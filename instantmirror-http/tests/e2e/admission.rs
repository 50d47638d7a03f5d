//! Who gets a connection when there are too many, and what one address is allowed.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use instantmirror_core::address::AddressBlock;
use instantmirror_http::{
    AddressLimits, Admission, AdmissionStats, ForwardedBy, Limits, RequestRate, Server, Service, TrustedProxies,
};
use tokio::sync::watch;

use crate::client::{Kept, Reply, get, send};
use crate::world::{Fault, Item, Running, World, start_on};

const SMALL: &str = "/debian/snap/current/small";
const HEAD: &str = "/.im/v1/debian/head";
const SOON: Duration = Duration::from_secs(20);

/// A server with a small file, and one of which nothing comes before it is told.
struct Setting {
    server: Running,
    world: Arc<World>,
    admission: Admission,
    progress: watch::Sender<u64>,
}

fn limits(connections_max: usize) -> Limits {
    let mut limits = Limits::default();
    limits.connections_max = connections_max;
    limits
}

/// Limits of addresses, those of this machine included.
fn of_addresses(connections_max: Option<usize>, requests: Option<(u32, u32)>) -> AddressLimits {
    let mut addresses = AddressLimits::default();
    addresses.connections_max = connections_max.and_then(NonZeroUsize::new);
    addresses.requests = requests.map(|(per_second, burst)| RequestRate {
        per_second: NonZeroU32::new(per_second).unwrap(),
        burst: NonZeroU32::new(burst).unwrap(),
    });
    addresses.exempt = Vec::new();
    addresses
}

async fn setting(limits: Limits) -> Setting {
    let mut server = Server::new(limits);
    server.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    setting_on(server, |service| service).await
}

async fn setting_on(server: Server, dress: impl FnOnce(Service) -> Service) -> Setting {
    let world = World::new();
    let slow = Bytes::from_static(b"slow");
    let (progress, until) = watch::channel(0);
    world.fault(&slow, Fault::Until(until));
    let items = vec![("small", Item::File("content".into())), ("slow", Item::File(slow))];
    world.publish(1, items, true).await;
    let service = world.service().with_api(world.api());
    let admission = server.admission();
    Setting {
        server: start_on(server, dress(service)),
        world,
        admission,
        progress,
    }
}

fn request(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes()
}

impl Setting {
    /// A connection that has had an answer and waits.
    async fn idle(&self, source: &str) -> Kept {
        let mut connection = Kept::connect_from(source, self.server.address).await.unwrap();
        let reply = ask(&mut connection, SMALL).await.unwrap();
        assert_eq!(reply.text(), "content");
        connection
    }

    /// So many connections that wait for an answer.
    async fn busy(&self, count: usize, source: &str) -> Vec<Kept> {
        let mut all = Vec::new();
        let before = self.world.readers.load(Ordering::SeqCst);
        for _ in 0..count {
            let mut connection = Kept::connect_from(source, self.server.address).await.unwrap();
            connection.send(&request("/debian/snap/current/slow")).await.unwrap();
            all.push(connection);
        }
        self.wait(|_| self.world.readers.load(Ordering::SeqCst) == before + count)
            .await;
        all
    }

    async fn wait(&self, is_so: impl Fn(&AdmissionStats) -> bool) {
        let so = async {
            while !is_so(&self.admission.stats()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(SOON, so).await;
        assert!(waited.is_ok(), "{:?}", self.admission.stats());
    }

    async fn end(self) {
        drop(self.progress);
        tokio::time::timeout(SOON, self.server.stop()).await.unwrap();
    }
}

async fn ask(connection: &mut Kept, target: &str) -> Option<Reply> {
    connection.send(&request(target)).await.ok()?;
    tokio::time::timeout(SOON, connection.answer(false)).await.unwrap()
}

#[tokio::test]
async fn idle_connections_make_room_the_oldest_first() {
    let setting = setting(limits(100)).await;
    let mut idle = Vec::new();
    for _ in 0..94 {
        idle.push(setting.idle("127.0.0.1").await);
    }
    // The first one is used again, and so not the oldest any more.
    assert!(ask(&mut idle[0], SMALL).await.is_some());
    setting.wait(|stats| (stats.open, stats.idle) == (94, 94)).await;
    for _ in 0..20 {
        assert_eq!(get(setting.server.address, SMALL).await.text(), "content");
    }
    let closed = setting.admission.stats().closed_idle;
    assert!((1..=20).contains(&closed), "{closed}");
    for connection in idle.iter_mut().skip(1).take(usize::try_from(closed).unwrap()) {
        assert!(connection.is_closed().await);
    }
    assert!(ask(&mut idle[0], SMALL).await.is_some());
    assert!(ask(&mut idle[93], SMALL).await.is_some());
    setting.end().await;
}

#[tokio::test]
async fn those_that_say_nothing_or_half_of_it_make_room_too() {
    let setting = setting(limits(4)).await;
    let mut silent = Vec::new();
    for begun in ["", "G", "GET / HTTP/1.1\r\nHo", ""] {
        let mut connection = Kept::connect(setting.server.address).await.unwrap();
        connection.send(begun.as_bytes()).await.unwrap();
        silent.push(connection);
    }
    setting.wait(|stats| stats.open == 4).await;
    for _ in 0..3 {
        assert_eq!(get(setting.server.address, SMALL).await.text(), "content");
    }
    assert!(silent[0].is_closed().await);
    assert_eq!(setting.server.service.stats().connections_timed_out, 0);
    drop(silent);
    setting.end().await;
}

#[tokio::test]
async fn where_nobody_is_idle_connections_end_behind_their_answer() {
    let setting = setting(limits(8)).await;
    let mut busy = setting.busy(8, "127.0.0.1").await;
    let address = setting.server.address;
    let newcomer = tokio::spawn(async move { get(address, SMALL).await });
    // It has been waiting for longer than one look takes.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!newcomer.is_finished() && setting.admission.stats().open == 8);
    setting.progress.send_replace(4);
    let mut ended = 0;
    for connection in &mut busy {
        let reply = connection.answer(false).await.unwrap();
        assert_eq!(reply.text(), "slow");
        ended += usize::from(reply.find("connection") == Some("close"));
    }
    // Said when the request came, or not at all: then the first idle one goes.
    assert_eq!(newcomer.await.unwrap().text(), "content");
    let stats = setting.admission.stats();
    assert!(ended as u64 + stats.closed_idle >= 1, "{stats:?}");
    setting.end().await;
}

#[tokio::test]
async fn those_who_ask_without_a_pause_take_turns_and_lose_nothing() {
    let setting = setting(limits(4)).await;
    let address = setting.server.address;
    let client = move || async move {
        let (mut answered, mut lost, mut connections) = (0, 0, 0);
        while answered < 100 {
            let mut connection = Kept::connect(address).await.unwrap();
            connections += 1;
            while answered < 100 {
                let Some(reply) = ask(&mut connection, SMALL).await else {
                    lost += 1;
                    break;
                };
                answered += 1;
                assert_eq!(reply.text(), "content");
                if reply.find("connection") == Some("close") {
                    break;
                }
            }
        }
        (lost, connections)
    };
    let clients: Vec<_> = (0..12).map(|_| tokio::spawn(client())).collect();
    let (mut lost, mut connections) = (0, 0);
    for client in clients {
        let counts = client.await.unwrap();
        lost += counts.0;
        connections += counts.1;
    }
    // A client that does nothing for long between two requests may lose its connection, as everywhere.
    let closed = setting.admission.stats().closed_idle;
    assert!(lost <= closed && connections > 12, "{lost} of {connections}, {closed}");
    setting.end().await;
}

#[tokio::test]
async fn readers_wait_where_nodes_are_answered() {
    let setting = setting(limits(64)).await;
    let mut busy = setting.busy(60, "127.0.0.1").await;
    let address = setting.server.address;
    let reader = tokio::spawn(async move { get(address, SMALL).await });
    setting.wait(|stats| stats.queued == 1).await;
    // Nodes are answered meanwhile, as often as they ask.
    let mut node = Kept::connect(address).await.unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&mut node, HEAD).await.unwrap().status, 200);
    }
    // A node's connection is for readers' requests no more than another one.
    node.send(&request(SMALL)).await.unwrap();
    setting.wait(|stats| stats.queued == 2).await;
    drop(busy.pop());
    assert_eq!(reader.await.unwrap().text(), "content");
    drop(busy.pop());
    assert_eq!(node.answer(false).await.unwrap().text(), "content");
    // Beyond the reserve the reader that waits longest is turned away, and a node gets through.
    let _more = setting.busy(1, "127.0.0.1").await;
    setting.wait(|stats| stats.open >= 60).await;
    let readers: Vec<_> = (0..12)
        .map(|_| tokio::spawn(async move { get(address, SMALL).await }))
        .collect();
    setting.wait(|stats| stats.turned_away > 0).await;
    assert_eq!(get(address, HEAD).await.status, 200);
    busy.clear();
    let mut statuses = Vec::new();
    for reader in readers {
        let reply = reader.await.unwrap();
        if reply.status == 503 {
            assert_eq!(
                (reply.header("retry-after"), reply.header("connection")),
                ("5", "close")
            );
        }
        statuses.push(reply.status);
    }
    assert!(statuses.contains(&503) && statuses.contains(&200), "{statuses:?}");
    setting.end().await;
}

#[tokio::test]
async fn long_polls_leave_room_for_readers() {
    let mut server = Server::new(limits(100));
    server.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let setting = setting_on(server, |service| service.with_long_polls_max(3)).await;
    let address = setting.server.address;
    let poll = move || tokio::spawn(async move { get(address, "/.im/v1/debian/head?after=1").await });
    let polls: Vec<_> = (0..3).map(|_| poll()).collect();
    let waiting = async {
        while setting.server.service.stats().polls_waiting < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap();
    // One that comes at once is to come later; one that comes later takes the place of the first.
    let mut refused = 0;
    while setting.server.service.stats().polls_shortened == 0 {
        let reply = tokio::time::timeout(Duration::from_secs(1), poll()).await;
        if let Ok(reply) = reply {
            let reply = reply.unwrap();
            assert_eq!((reply.status, reply.header("retry-after")), (503, "5"));
            refused += 1;
        }
    }
    // None, if this machine did nothing for so long.
    assert!(setting.server.service.stats().polls_refused >= refused);
    let (first, _, _) = futures_util::future::select_all(polls).await;
    assert_eq!(first.unwrap().status, 204);
    // One that does not wait needs no place.
    let reply = get(address, "/.im/v1/debian/head?after=1&wait=0").await;
    assert_eq!(reply.status, 204);
    assert_eq!(
        get(address, "/.im/v1/debian/head?after=0").await.status,
        200,
        "there is nothing to wait for"
    );
    assert_eq!(get(address, SMALL).await.status, 200);
    setting.end().await;
}

#[tokio::test]
async fn one_address_does_not_shut_out_another() {
    let mut changed = limits(200);
    changed.addresses = of_addresses(Some(50), None);
    let setting = setting(changed).await;
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(setting.idle("127.0.0.2").await);
    }
    setting.wait(|stats| stats.idle == 50).await;
    // One more of the same closes its own oldest, and never another's.
    let mut other = setting.idle("127.0.0.3").await;
    let mut newest = None;
    while setting.admission.stats().closed_idle == 0 {
        // While all were in use a moment ago it is refused.
        let mut connection = Kept::connect_from("127.0.0.2", setting.server.address).await.unwrap();
        newest = ask(&mut connection, SMALL)
            .await
            .map(|reply| (reply.status, connection));
    }
    assert_eq!(newest.map(|(status, _)| status), Some(200));
    assert!(idle[0].is_closed().await);
    assert!(ask(&mut other, SMALL).await.is_some());
    drop(idle);
    // Where all of them are in use, it is refused and told why.
    setting.wait(|stats| stats.open == 1).await;
    let busy = setting.busy(50, "127.0.0.2").await;
    let refused = setting.admission.stats().refused_by_address;
    let mut one_more = Kept::connect_from("127.0.0.2", setting.server.address).await.unwrap();
    let reply = ask(&mut one_more, SMALL).await.unwrap();
    assert_eq!((reply.status, reply.header("retry-after")), (429, "5"));
    assert!(reply.text().contains("connections") && one_more.is_closed().await);
    assert_eq!(setting.admission.stats().refused_by_address, refused + 1);
    assert_eq!(
        ask(&mut setting.idle("127.0.0.4").await, SMALL)
            .await
            .map(|reply| reply.status),
        Some(200)
    );
    // The limit can be changed, and holds at once.
    setting.admission.set_limits(200, &of_addresses(Some(60), None));
    let mut one_more = Kept::connect_from("127.0.0.2", setting.server.address).await.unwrap();
    assert_eq!(ask(&mut one_more, SMALL).await.unwrap().status, 200);
    drop(busy);
    setting.end().await;
}

#[tokio::test]
async fn this_machine_and_its_proxies_have_no_limit() {
    let mut changed = limits(100);
    changed.addresses = of_addresses(Some(2), Some((1, 1)));
    changed.addresses.exempt = AddressLimits::default().exempt;
    let setting = setting(changed).await;
    let _busy = setting.busy(20, "127.0.0.1").await;
    assert_eq!(get(setting.server.address, SMALL).await.status, 200);
    setting.end().await;
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_again() {
    let mut changed = limits(100);
    changed.addresses = of_addresses(None, Some((1, 5)));
    let setting = setting(changed).await;
    let mut connection = Kept::connect_from("127.0.0.2", setting.server.address).await.unwrap();
    let mut statuses = Vec::new();
    for _ in 0..20 {
        let reply = ask(&mut connection, SMALL).await.unwrap();
        if reply.status == 429 {
            assert_eq!(
                (reply.header("retry-after"), reply.header("cache-control")),
                ("1", "no-store")
            );
            assert!(reply.find("connection").is_none(), "it is kept");
        }
        statuses.push(reply.status);
    }
    assert_eq!(statuses[..5], [200; 5]);
    assert!(statuses.contains(&429), "{statuses:?}");
    let limited = statuses.iter().filter(|status| **status == 429).count() as u64;
    assert_eq!(setting.admission.stats().requests_limited, limited);
    assert_eq!(
        ask(&mut setting.idle("127.0.0.3").await, SMALL)
            .await
            .map(|reply| reply.status),
        Some(200)
    );
    // The body of what is refused is not taken for the next request.
    let batch = b"GET /debian/snap/current/small HTTP/1.1\r\nHost: h\r\n\r\n";
    let reply = loop {
        let mut connection = Kept::connect_from("127.0.0.2", setting.server.address).await.unwrap();
        let head = format!(
            "POST /.im/v1/debian/batch HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
            batch.len()
        );
        connection.send(&[head.as_bytes(), batch].concat()).await.unwrap();
        let reply = connection.answer(false).await.unwrap();
        if reply.status == 429 {
            assert!(connection.answer(false).await.is_none(), "it is closed");
            break reply;
        }
    };
    assert_eq!(reply.header("connection"), "close");
    setting.admission.set_limits(100, &of_addresses(None, None));
    for _ in 0..20 {
        assert_eq!(ask(&mut connection, SMALL).await.unwrap().status, 200);
    }
    setting.end().await;
}

#[tokio::test]
async fn a_trusted_proxy_is_limited_as_those_it_asks_for() {
    let proxies: Vec<AddressBlock> = vec!["127.0.0.9".parse().unwrap()];
    let mut changed = limits(100);
    changed.addresses = of_addresses(Some(3), Some((1, 4)));
    let mut server = Server::new(changed);
    server.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let proxied = server
        .listen_proxied("127.0.0.1:0".parse().unwrap(), None)
        .await
        .unwrap();
    let trusted = TrustedProxies::new(proxies, ForwardedBy::XForwardedFor);
    let setting = setting_on(server, |service| service.with_proxies(trusted)).await;
    // More connections than an address may have, for clients that each ask little.
    let mut connections = Vec::new();
    for _ in 0..10 {
        connections.push(Kept::connect_from("127.0.0.9", setting.server.address).await.unwrap());
    }
    for (at, connection) in connections.iter_mut().enumerate() {
        let client = format!("GET {SMALL} HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 2001:db8:0:{at}::7\r\n\r\n");
        connection.send(client.as_bytes()).await.unwrap();
        assert_eq!(connection.answer(false).await.unwrap().status, 200, "{at}");
    }
    // Those in one network of IPv6 count together, however many addresses they take.
    let mut statuses = Vec::new();
    while statuses.last() != Some(&429) {
        let host = statuses.len();
        assert!(host < 10_000, "nothing is limited");
        let client = format!("GET {SMALL} HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 2001:db8:9:9::{host}\r\n\r\n");
        connections[0].send(client.as_bytes()).await.unwrap();
        statuses.push(connections[0].answer(false).await.unwrap().status);
    }
    assert_eq!(statuses[..4], [200; 4]);
    // The proxy itself may ask as it likes.
    for _ in 0..8 {
        assert_eq!(ask(&mut connections[0], SMALL).await.unwrap().status, 200);
    }
    // By the PROXY protocol their connections count.
    let mut of_network = Vec::new();
    for host in 0..3 {
        let mut connection = Kept::connect_from("127.0.0.9", proxied).await.unwrap();
        let line = format!("PROXY TCP6 2001:db8:7:7::{host} ::1 4711 80\r\n");
        let slow = request("/debian/snap/current/slow");
        connection.send(&[line.as_bytes(), &slow].concat()).await.unwrap();
        of_network.push(connection);
    }
    setting
        .wait(|_| setting.world.readers.load(Ordering::SeqCst) == 3)
        .await;
    for (client, status) in [("2001:db8:7:7::9", 429), ("2001:db8:7:8::9", 200)] {
        let mut connection = Kept::connect_from("127.0.0.9", proxied).await.unwrap();
        let line = format!("PROXY TCP6 {client} ::1 4711 80\r\n");
        connection
            .send(&[line.as_bytes(), &request(SMALL)].concat())
            .await
            .unwrap();
        assert_eq!(connection.answer(false).await.unwrap().status, status, "{client}");
    }
    assert_eq!(send(setting.server.address, "GET", SMALL, "", b"").await.status, 200);
    setting.end().await;
}

#[tokio::test]
async fn fewer_connections_than_there_are_may_be_allowed_while_serving() {
    let setting = setting(limits(50)).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(setting.idle("127.0.0.1").await);
    }
    setting.wait(|stats| stats.idle == 20).await;
    setting.admission.set_limits(10, &AddressLimits::default());
    assert_eq!(get(setting.server.address, SMALL).await.status, 200);
    setting.wait(|stats| stats.open < 10).await;
    assert_eq!(setting.admission.stats().connections_max, 10);
    setting.end().await;
}
