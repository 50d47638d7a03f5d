//! What goes over which connection, and when a transfer is given up.

use std::net::SocketAddr;

use instantmirror_core::traits::Upstream as _;

use super::*;

#[test]
fn only_http_urls_are_masters() {
    for wrong in ["", "master.example.org", "ftp://example.org", "/path", "http://"] {
        assert!(
            matches!(HttpOrigin::new(wrong), Err(TransportError::Refused { .. })),
            "{wrong}"
        );
    }
    let origin = HttpOrigin::new("http://example.org/mirror").unwrap();
    let repo = "debian".parse().unwrap();
    let request = origin
        .request(Lane::Common, Method::GET, &repo, "head")
        .unwrap()
        .build()
        .unwrap();
    assert_eq!(request.url().as_str(), "http://example.org/mirror/.im/v1/debian/head");
}

/// A body of so many parts, one after each pause.
fn dripping(part: usize, parts: usize, pause: Duration) -> Response {
    let drops = stream::iter(0..parts).then(move |_| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; part]))
    });
    http::Response::new(reqwest::Body::wrap_stream(drops)).into()
}

#[tokio::test(start_paused = true)]
async fn who_sends_next_to_nothing_is_given_up_and_who_is_slow_is_not() {
    let origin = HttpOrigin::new("http://example.org/").unwrap();
    let second = Duration::from_secs(1);
    let begun = tokio::time::Instant::now();
    let error = origin
        .collect(dripping(1, 1_000_000, second * 20), 1 << 20)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("too slow"), "{error}");
    assert!(
        begun.elapsed() <= PROGRESS_TIMEOUT + second * 20,
        "{:?}",
        begun.elapsed()
    );
    let silent = origin
        .collect(dripping(1, 2, PROGRESS_TIMEOUT * 2), 10)
        .await
        .unwrap_err();
    assert!(silent.to_string().contains("no progress"), "{silent}");
    let slow = origin.collect(dripping(2 * 1024, 300, second), 1 << 20).await;
    assert_eq!(slow.unwrap().len(), 300 * 2 * 1024);
    // Whoever reads may take its time.
    let mut body = std::pin::pin!(origin.body(dripping(10, 20, Duration::ZERO)));
    while let Some(part) = body.next().await {
        part.unwrap();
        tokio::time::sleep(PROGRESS_TIMEOUT * 2).await;
    }
}

/// A master that says which connection each request came on; it answers nothing but HEADs and ranges, with four bytes.
async fn connections_seen(
    listener: tokio::net::TcpListener,
    seen: tokio::sync::mpsc::UnboundedSender<(usize, String)>,
) {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    for number in 0.. {
        let (socket, _) = listener.accept().await.unwrap();
        let seen = seen.clone();
        tokio::spawn(async move {
            let mut socket = BufReader::new(socket);
            let mut line = String::new();
            while socket.read_line(&mut line).await.unwrap() > 0 {
                let request = std::mem::take(&mut line);
                while line != "\r\n" {
                    line.clear();
                    socket.read_line(&mut line).await.unwrap();
                }
                line.clear();
                let is_range = request.contains("/objects/");
                if is_range || request.starts_with("HEAD") {
                    let answer =
                        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/4\r\nContent-Length: 4\r\n\r\n";
                    let body = if is_range { "body" } else { "" };
                    socket.write_all(format!("{answer}{body}").as_bytes()).await.unwrap();
                }
                seen.send((number, request)).unwrap();
            }
        });
    }
}

#[tokio::test]
async fn whoever_waits_finds_a_connection_whatever_else_is_asked_for() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = HttpOrigin::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let master = tokio::spawn(connections_seen(listener, sender));
    let repo: RepoName = "debian".parse().unwrap();
    let (follower, of) = (origin.clone(), repo.clone());
    let following = tokio::spawn(async move { follower.head(&of, Some(1)).await });
    let (other, of) = (origin.clone(), repo.clone());
    let listing = tokio::spawn(async move { other.torrents(&of).await });
    let mut warm = None;
    for _ in 0..3 {
        let asked = tokio::time::timeout(Duration::from_secs(20), seen.recv()).await;
        let (connection, request) = asked.expect("head, list and a HEAD are asked for").unwrap();
        warm = warm.or_else(|| request.starts_with("HEAD").then_some(connection));
    }
    for _ in 0..2 {
        let object = ObjectId::of(b"body");
        let body = origin.range(&repo, &object, 0..4, Class::Demand).await.unwrap();
        let parts: Vec<_> = body.collect().await;
        assert_eq!(parts.len(), 1);
        assert_eq!(Some(seen.recv().await.unwrap().0), warm);
    }
    following.abort();
    listing.abort();
    master.abort();
}

/// Answers every request with these bytes.
async fn answers(answer: String) -> SocketAddr {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (mut socket, mut line) = (BufReader::new(socket), String::new());
            while line != "\r\n" {
                line.clear();
                socket.read_line(&mut line).await.unwrap();
            }
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    address
}

fn response(status: &str, more: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{more}Content-Length: 0\r\nConnection: close\r\n\r\n")
}

/// What is said of a head that cannot be had.
async fn trouble(origin: &HttpOrigin) -> String {
    let head = origin.head(&"r".parse().unwrap(), None).await;
    head.unwrap_err().to_string()
}

#[tokio::test]
async fn who_is_sent_on_in_vain_is_told_where_to() {
    let away = answers(response("503 Service Unavailable", "")).await;
    let gone = answers(response("404 Not Found", "")).await;
    let forbidding = answers(response("403 Forbidden", "")).await;
    let cut = answers("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhea".to_owned()).await;
    // Nobody listens there.
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    for (place, said) in [
        (away, "503"),
        (gone, "does not have"),
        (forbidding, "403"),
        (cut, ""),
        (closed, "refused"),
    ] {
        let location = format!("Location: http://u:SECRET@{place}/x/.im/v1/r/head?key=SECRET\r\n");
        let master = answers(response("301 Moved Permanently", &location)).await;
        let origin = HttpOrigin::new(&format!("http://{master}")).unwrap();
        // The second time it may be asked there at once.
        for _ in 0..2 {
            let error = trouble(&origin).await;
            let place = format!("(sent on to http://{place}/x/)");
            assert!(error.contains(said) && error.contains(&place), "{error}");
            assert!(
                error.starts_with(&format!("http://{master}")) && !error.contains("SECRET"),
                "{error}"
            );
        }
    }
    let origin = HttpOrigin::new(&format!("http://{away}")).unwrap();
    let error = trouble(&origin).await;
    assert!(error.contains("503") && !error.contains("sent on"), "{error}");
}

#[tokio::test]
async fn what_a_proxy_says_is_not_told_as_the_word_of_the_master() {
    let ask = async |master: &str, proxy: SocketAddr| {
        let proxies = Proxies::all(&SecretUrl::from(format!("http://u:SECRET@{proxy}"))).unwrap();
        // The proxy is where it is, and the master is the proxy's affair.
        let mut policy = AddressPolicy::default();
        policy.allow = vec!["192.0.2.0/24".parse().unwrap()];
        let outgoing = Outgoing {
            policy,
            proxies,
            ..Outgoing::default()
        };
        let origin = HttpOrigin::new(master).unwrap().with_outgoing(&outgoing).unwrap();
        trouble(&origin).await
    };
    let squid = answers(response("403 Forbidden", "X-Squid-Error: ERR_ACCESS_DENIED 0\r\n")).await;
    let strict = answers(response("407 Proxy Authentication Required", "")).await;
    let other = answers(response("403 Forbidden", "")).await;
    for (master, proxy, said) in [
        ("http://master.invalid", squid, "the proxy answers 403"),
        ("http://198.51.100.1", squid, "the proxy answers 403"),
        ("http://master.invalid", strict, "the proxy answers 407"),
        ("http://master.invalid", other, "refuses: 403"),
        ("https://master.invalid", squid, "the proxy http://127.0.0.1:"),
        ("https://master.invalid", strict, "the proxy http://127.0.0.1:"),
    ] {
        let error = ask(master, proxy).await;
        assert!(
            error.contains(said) && error.contains(&proxy.to_string()),
            "{master}: {error}"
        );
        assert!(error.starts_with(master) && !error.contains("SECRET"), "{error}");
        assert_eq!(error.contains("refuses"), proxy == other, "{error}");
    }
}

/// By its name as by its address.
#[tokio::test]
async fn the_addresses_that_are_admitted_are_those_of_masters_and_not_of_proxies() {
    let proxy = answers(response("503 Service Unavailable", "")).await;
    let mut policy = AddressPolicy::default();
    policy.allow = vec!["192.0.2.0/24".parse().unwrap()];
    for host in ["localhost", "LOCALHOST", "127.0.0.1"] {
        let proxies = Proxies::all(&SecretUrl::from(format!("http://{host}:{}", proxy.port()))).unwrap();
        let outgoing = Outgoing {
            policy: policy.clone(),
            proxies,
            ..Outgoing::default()
        };
        let origin = HttpOrigin::new("http://master.invalid")
            .unwrap()
            .with_outgoing(&outgoing)
            .unwrap();
        let error = trouble(&origin).await;
        assert!(error.contains("503"), "{host}: {error}");
    }
    let direct = HttpOrigin::new(&format!("http://localhost:{}", proxy.port())).unwrap();
    let direct = direct.with_policy(&policy).unwrap();
    let error = trouble(&direct).await;
    assert!(error.contains("admits none"), "{error}");
}
