//! What nobody waits for is answered by other threads, on the same connections.

use std::sync::Arc;
use std::time::Duration;

use instantmirror_http::{Limits, Server};
use tokio::runtime::{Builder, Runtime};

use crate::client::Kept;
use crate::world::{Item, Running, World, start_on};

const SOON: Duration = Duration::from_secs(10);
const NAME: &str = "background";
const URGENT: &str = "";
const BACKGROUND: &str = "Priority: u=7\r\n";

/// The runtime outlives the server.
struct Setting {
    server: Running,
    world: Arc<World>,
    runtime: Runtime,
}

async fn setting(limits: Limits) -> Setting {
    let world = World::new();
    let names = ["a", "b", "c", "d", "e", "f"];
    let items = names.map(|name| (name, Item::File(name.repeat(100_000).into())));
    world.publish(1, items.into(), true).await;
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(NAME)
        .enable_all()
        .build()
        .unwrap();
    let mut server = Server::new(limits).with_background(runtime.handle().clone());
    server.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let server = start_on(server, world.service());
    Setting { server, world, runtime }
}

impl Setting {
    async fn end(self) {
        tokio::time::timeout(SOON, self.server.stop()).await.unwrap();
        self.runtime.shutdown_background();
    }

    /// Which of the objects opened so far were opened in the background.
    fn opened_in_background(&self) -> Vec<bool> {
        let opened_by = self.world.opened_by.lock().unwrap();
        opened_by.iter().map(|thread| thread == NAME).collect()
    }
}

fn request(name: &str, lines: &str) -> Vec<u8> {
    format!("GET /debian/snap/current/{name} HTTP/1.1\r\nHost: h\r\n{lines}\r\n").into_bytes()
}

async fn answer(connection: &mut Kept, name: &str) {
    let reply = connection.answer(false).await.unwrap();
    assert_eq!(reply.status, 200);
    assert!(reply.whole && reply.body == name.repeat(100_000).into_bytes());
}

const MIXED: [(&str, &str); 6] = [
    ("a", URGENT),
    ("b", BACKGROUND),
    ("c", BACKGROUND),
    ("d", URGENT),
    ("e", BACKGROUND),
    ("f", URGENT),
];

#[tokio::test]
async fn a_connection_goes_to_the_threads_that_its_requests_are_for() {
    let setting = setting(Limits::default()).await;
    let mut connection = Kept::connect(setting.server.address).await.unwrap();
    for (name, lines) in MIXED {
        connection.send(&request(name, lines)).await.unwrap();
        answer(&mut connection, name).await;
    }
    assert_eq!(setting.opened_in_background(), [false, true, true, false, true, false]);
    // Now they are kept ready, and open nothing.
    for (name, lines) in MIXED {
        connection.send(&request(name, lines)).await.unwrap();
        answer(&mut connection, name).await;
    }
    assert_eq!(setting.server.service.stats().connections_accepted, 1);
    drop(connection);
    setting.end().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let setting = setting(Limits::default()).await;
    let mut connection = Kept::connect(setting.server.address).await.unwrap();
    let all: Vec<u8> = MIXED.iter().flat_map(|(name, lines)| request(name, lines)).collect();
    connection.send(&all).await.unwrap();
    for (name, _) in MIXED {
        answer(&mut connection, name).await;
    }
    assert_eq!(setting.opened_in_background(), [false, true, true, false, true, false]);
    drop(connection);
    setting.end().await;
}

#[tokio::test]
async fn limits_and_the_end_of_the_server_hold_in_the_background_too() {
    let mut limits = Limits::default();
    limits.idle_timeout = Duration::from_millis(200);
    let setting = setting(limits).await;
    let mut connection = Kept::connect(setting.server.address).await.unwrap();
    for (name, lines) in MIXED.into_iter().take(3) {
        connection.send(&request(name, lines)).await.unwrap();
        answer(&mut connection, name).await;
    }
    // The server closes it.
    assert!(
        tokio::time::timeout(SOON, connection.answer(false))
            .await
            .unwrap()
            .is_none()
    );
    let mut idle = Kept::connect(setting.server.address).await.unwrap();
    idle.send(&request("b", BACKGROUND)).await.unwrap();
    answer(&mut idle, "b").await;
    // With a client that has gone away in the middle of an answer.
    let mut gone = Kept::connect(setting.server.address).await.unwrap();
    gone.send(&request("c", BACKGROUND)).await.unwrap();
    drop(gone);
    setting.end().await;
}
