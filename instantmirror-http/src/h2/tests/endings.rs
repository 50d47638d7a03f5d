//! How connections end whose clients are gone, too slow, or in places that are not for them.

use std::io::Read as _;

use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::connection::Deadline;
use crate::h2::alive::{PING_INTERVAL, PING_TIMEOUT};

fn get(path: &str) -> Request<()> {
    Request::get(format!("https://mirror{path}")).body(()).unwrap()
}

/// A client whose machine has lost its power says nothing, not even that it is gone.
#[tokio::test(start_paused = true)]
async fn a_client_that_is_gone_while_its_request_waits_is_cut_and_one_that_is_there_is_not() {
    for is_there in [true, false] {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (_, service, served, _kept) = serve_on(near, Limits::default(), Stopping::never());
        let (mut client, mut connection) = h2::client::handshake(far).await.unwrap();
        let (answer, _) = client.send_request(get("/never"), true).unwrap();
        let sending = tokio::time::timeout(Duration::from_secs(1), &mut connection);
        assert!(sending.await.is_err(), "the request is on its way");
        let begun = Instant::now();
        let asked = if is_there {
            tokio::spawn(async move { connection.await.unwrap() })
        } else {
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(connection);
            })
        };
        let ended = tokio::time::timeout(Duration::from_secs(600), served).await;
        assert_eq!(ended.is_err(), is_there);
        let longest = PING_INTERVAL * 2 + PING_TIMEOUT.max(Limits::default().write_timeout);
        assert!(is_there || begun.elapsed() <= longest, "{:?}", begun.elapsed());
        assert_eq!(service.stats().connections_timed_out, u64::from(!is_there));
        asked.abort();
        drop(answer);
    }
}

/// What the kernel has for a client that takes nothing would stay for minutes.
#[tokio::test]
async fn a_connection_that_is_cut_is_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    far.set_nonblocking(true).unwrap();
    let mut beneath = far.try_clone().unwrap();
    let (near, _) = listener.accept().await.unwrap();
    let limits = Limits {
        write_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let (_, _, served, _kept) = serve_on(near, limits, Stopping::never());
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .initial_max_send_streams(100);
    let far = TcpStream::from_std(far).unwrap();
    let (mut client, mut connection) = builder.handshake::<_, Bytes>(far).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..100 {
        answers.push(client.send_request(get("/debian/snap/current/big"), true).unwrap());
        // Once, to send it. Nobody reads the answers.
        let _ = futures_util::poll!(&mut connection);
    }
    served.await.unwrap();
    beneath.set_nonblocking(false).unwrap();
    let ended = beneath.read_to_end(&mut Vec::new());
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_turned_away_from_a_reserved_place_leaves_it() {
    let limits = Limits {
        connections_max: 16,
        ..Limits::default()
    };
    let admission = Admission::new(&limits);
    let mut busy = Vec::new();
    for _ in 0..16 {
        let place = admission.admit(None).await.unwrap();
        place.works();
        busy.push(place);
    }
    let place = Arc::new(busy.pop().unwrap());
    assert!(place.is_reserved());
    let service = Arc::new(Service::new(Arc::new(instantmirror_core::memory::Nothing)));
    let (_sender, services) = watch::channel(service);
    let shared = Arc::new(Shared {
        services,
        admission,
        limits,
        background: None,
        stopping: Stopping::never(),
    });
    let (near, far) = tokio::io::duplex(64 * 1024);
    let served = tokio::spawn(carry(near, IpAddr::from([192, 0, 2, 1]), shared, place));
    let (mut client, connection) = h2::client::handshake(far).await.unwrap();
    let connection = tokio::spawn(connection);
    let (answer, _) = client.send_request(get("/"), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    let begun = Instant::now();
    let mut deadline = Deadline::new();
    deadline.lasts(LEAVE_TIME);
    tokio::select! {
        () = poll_fn(|cx| deadline.poll_over(cx)) => panic!("it stays"),
        ended = served => ended.unwrap(),
    }
    assert!(begun.elapsed() <= GOODBYE_TIME * 2, "{:?}", begun.elapsed());
    drop(client);
    let _ = connection.await;
}
