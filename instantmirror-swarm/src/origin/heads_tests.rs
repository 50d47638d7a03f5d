//! One poll for many repositories, at a master that counts what it is asked.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;

/// How long anything may take before a test fails.
const LIMIT: Duration = Duration::from_secs(60);

/// A master of which only heads can be had. `guarded` is one that a gate in front refuses.
#[derive(Debug)]
struct Master {
    heads: watch::Sender<HeadMarks>,
    /// What a question for many is answered with, if not as it should be.
    refusal: Mutex<Option<&'static str>>,
    /// Method and path, and the body.
    asked: watch::Sender<Vec<(String, String)>>,
    open: AtomicUsize,
}

impl Master {
    async fn start(marks: &[(&str, u64)]) -> (Arc<Self>, HttpOrigin) {
        let master = Arc::new(Self {
            heads: watch::Sender::new(marks_of(marks)),
            refusal: Mutex::default(),
            asked: watch::Sender::default(),
            open: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = HttpOrigin::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let serving = Arc::clone(&master);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let master = Arc::clone(&serving);
                tokio::spawn(async move {
                    master.open.fetch_add(1, Ordering::SeqCst);
                    let _ = master.serve(BufReader::new(socket)).await;
                    master.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        (master, origin)
    }

    async fn serve(&self, mut socket: BufReader<TcpStream>) -> std::io::Result<()> {
        loop {
            let (mut line, mut length) = (String::new(), 0);
            if socket.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let request = line.rsplit_once(' ').map_or("", |(request, _)| request).to_owned();
            loop {
                line.clear();
                socket.read_line(&mut line).await?;
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            socket.read_exact(&mut body).await?;
            let body = String::from_utf8(body).unwrap();
            self.asked
                .send_modify(|asked| asked.push((request.clone(), body.clone())));
            let mut gone = [0];
            let (status, text) = tokio::select! {
                answer = self.answer(&request, &body) => answer,
                // Nobody sends ahead: this is the end.
                _ = socket.read(&mut gone) => return Ok(()),
            };
            let length = text.len();
            let text = if request.starts_with("HEAD") { "" } else { &text };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n");
            let head = if status.starts_with("204") {
                "HTTP/1.1 204 No Content\r\n\r\n"
            } else {
                &head
            };
            socket.write_all(format!("{head}{text}").as_bytes()).await?;
        }
    }

    async fn answer(&self, request: &str, body: &str) -> (&'static str, String) {
        if request.contains("/guarded/") {
            return ("403 Forbidden", String::new());
        }
        if request.starts_with("POST") {
            let refusal = *lock(&self.refusal);
            if let Some(refusal) = refusal {
                return (refusal, String::new());
            }
            let known = HeadQuestion::decode(body.as_bytes()).unwrap().known;
            let moved_in =
                |now: &HeadMarks| moved_of(&known, |name| now.get(name).copied().unwrap_or(HeadMark::Absent));
            let wait = request.rsplit_once("wait=").unwrap().1.parse().unwrap();
            let mut heads = self.heads.subscribe();
            let moved = heads.wait_for(|now| !moved_in(now).is_empty());
            return match tokio::time::timeout(Duration::from_secs(wait), moved).await {
                Ok(now) => ("200 OK", heads::encode(&moved_in(&now.unwrap()))),
                Err(_) => ("204 No Content", String::new()),
            };
        }
        let repository: RepoName = request.split('/').nth(3).unwrap().parse().unwrap();
        let mut heads = self.heads.subscribe();
        let after = request
            .split_once("after=")
            .map(|(_, rest)| rest.split('&').next().unwrap().parse().unwrap());
        let is_newer = |now: &HeadMarks| {
            after.is_none_or(|after| now.get(&repository).is_some_and(|now| *now > HeadMark::Sequence(after)))
        };
        let now = heads.wait_for(is_newer).await.unwrap().get(&repository).copied();
        match now {
            Some(mark) => ("200 OK", format!("{repository} {mark}")),
            None => ("404 Not Found", String::new()),
        }
    }

    fn move_to(&self, repository: &str, sequence: u64) {
        let (name, mark) = (repository.parse().unwrap(), HeadMark::Sequence(sequence));
        self.heads.send_modify(|heads| _ = heads.insert(name, mark));
    }

    /// Waits until it was asked something that this is true of.
    async fn wait_for(&self, is_it: impl Fn(&[(String, String)]) -> bool) -> Vec<(String, String)> {
        let mut asked = self.asked.subscribe();
        let seen = tokio::time::timeout(LIMIT, asked.wait_for(|asked| is_it(asked))).await;
        seen.map(|seen| seen.unwrap().clone())
            .unwrap_or_else(|_| panic!("not asked: {:?}", self.asked.borrow()))
    }

    /// Waits until there were so many questions for many; returns the lines of the last.
    async fn polls(&self, count: usize) -> Vec<String> {
        let asked = self.wait_for(|asked| polls_in(asked).len() >= count).await;
        let polls = polls_in(&asked);
        assert_eq!(polls.len(), count, "{polls:?}");
        polls[count - 1].lines().map(str::to_owned).collect()
    }
}

/// The questions for many that wait.
fn polls_in(asked: &[(String, String)]) -> Vec<&str> {
    let waits = |request: &str| request.starts_with("POST") && !request.ends_with("wait=0");
    asked
        .iter()
        .filter(|(request, _)| waits(request))
        .map(|(_, body)| body.as_str())
        .collect()
}

fn marks_of(marks: &[(&str, u64)]) -> HeadMarks {
    let mark = |(name, sequence): &(&str, u64)| (name.parse().unwrap(), HeadMark::Sequence(*sequence));
    marks.iter().map(mark).collect()
}

type News = Result<HeadNews, TransportError>;

fn ask(origin: &HttpOrigin, repository: &str, held: u64, wait: bool) -> JoinHandle<News> {
    let (origin, name): (_, RepoName) = (origin.clone(), repository.parse().unwrap());
    tokio::spawn(async move { origin.news_with_others(&name, held, wait).await })
}

async fn told(asked: JoinHandle<News>) -> News {
    tokio::time::timeout(LIMIT, asked).await.expect("an answer").unwrap()
}

fn head(text: &'static str) -> News {
    Ok(HeadNews::Head(text.into()))
}

/// For comparing: errors cannot be.
fn seen(news: &News) -> String {
    format!("{news:?}")
}

#[tokio::test]
async fn all_who_wait_are_in_one_request_and_whoever_was_told_comes_back_into_it() {
    let names: Vec<String> = (10..60).map(|i| format!("r{i}")).collect();
    let marks: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let (master, origin) = Master::start(&marks).await;
    let mut waiting: Vec<_> = names.iter().map(|name| ask(&origin, name, 1, true)).collect();
    assert_eq!(master.polls(1).await.len(), 50);
    master.move_to("r17", 2);
    assert_eq!(seen(&told(waiting.remove(7)).await), seen(&head("r17 2")));
    // The others are asked for on, and so is what was just told.
    let lines = master.polls(2).await;
    assert!(
        lines.len() == 50 && lines[7] == "r17 2 pending" && lines[8] == "r18 1",
        "{lines:?}"
    );
    waiting.insert(7, ask(&origin, "r17", 2, true));
    // The master hears that it has it.
    let has_it = |asked: &[(String, String)]| asked.iter().any(|(_, body)| body == "r17 2\n");
    master.wait_for(has_it).await;
    // It fits: the same poll brings the next news.
    master.move_to("r18", 5);
    assert_eq!(seen(&told(waiting.remove(8)).await), seen(&head("r18 5")));
    master.polls(3).await;
    // Something that is news to the poll, and to nobody else.
    let late = ask(&origin, "r18", 4, true);
    assert_eq!(seen(&told(late).await), seen(&head("r18 5")));
    // A master that was set back is noticed too.
    master.move_to("r19", 0);
    let news = told(waiting.remove(8)).await;
    assert_eq!(seen(&news), seen(&head("r19 0")));
    // One connection polls, one or two are kept.
    assert!(master.open.load(Ordering::SeqCst) <= 4, "{master:?}");
    // Nobody waits any more: nor does the master.
    waiting.iter().for_each(JoinHandle::abort);
    let idle = async {
        while master.open.load(Ordering::SeqCst) > 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, idle).await.expect("the poll is given up");
}

#[tokio::test]
async fn what_is_wrong_with_one_repository_is_no_trouble_of_the_others() {
    let (master, origin) = Master::start(&[("a", 1), ("b", 1), ("guarded", 3)]).await;
    let fine = [ask(&origin, "a", 1, true), ask(&origin, "b", 1, true)];
    let [absent, guarded] = ["absent", "guarded"].map(|name| ask(&origin, name, 0, true));
    let error = told(absent).await.unwrap_err();
    assert!(matches!(&error, TransportError::NotFound { .. }), "{error}");
    assert!(
        error.to_string().contains("does not have repository 'absent'"),
        "{error}"
    );
    let error = told(guarded).await.unwrap_err();
    assert!(error.to_string().contains("403"), "{error}");
    // They ask again, now and then, without a word to the poll of the others.
    let lines = master.polls(2).await;
    assert_eq!(lines, ["a 1", "absent -", "b 1", "guarded 3 pending"]);
    assert!(matches!(
        told(ask(&origin, "absent", 0, false)).await,
        Err(TransportError::NotFound { .. })
    ));
    let error = told(ask(&origin, "guarded", 0, false)).await.unwrap_err();
    assert!(error.to_string().contains("403"), "{error}");
    master.move_to("b", 2);
    let [a, b] = fine;
    assert_eq!(seen(&told(b).await), seen(&head("b 2")));
    master.polls(3).await;
    // One that appears is told of at once.
    let back = ask(&origin, "absent", 0, true);
    assert!(matches!(told(back).await, Err(TransportError::NotFound { .. })));
    master.move_to("absent", 1);
    assert_eq!(
        seen(&told(ask(&origin, "absent", 0, true)).await),
        seen(&head("absent 1"))
    );
    a.abort();
}

#[tokio::test]
async fn those_who_look_at_the_same_time_look_in_one_request() {
    let (master, origin) = Master::start(&[("a", 1), ("b", 7), ("c", 0)]).await;
    let looks = ["a", "b", "c"].map(|name| ask(&origin, name, u64::from(name != "c"), false));
    let [a, b, c] = looks;
    assert_eq!(seen(&told(a).await), seen(&Ok(HeadNews::Same)));
    assert_eq!(seen(&told(b).await), seen(&head("b 7")));
    assert_eq!(
        seen(&told(c).await),
        seen(&Ok(HeadNews::Same)),
        "there is none yet, and none is held"
    );
    let asked = master.asked.borrow().clone();
    assert_eq!(asked[0].1, "a 1\nb 1\nc 0\n");
    assert!(asked[0].0.ends_with("/.im/v1/heads?wait=0"), "{asked:?}");
    assert_eq!(asked.len(), 2, "{asked:?}");
}

#[tokio::test]
async fn a_master_that_does_not_know_the_request_is_asked_for_each_until_it_was_away() {
    for refusal in [
        "400 Bad Request",
        "404 Not Found",
        "405 Method Not Allowed",
        "403 Forbidden",
        "501 x",
        "200 OK",
    ] {
        let (master, origin) = Master::start(&[("a", 1), ("b", 1)]).await;
        *lock(&master.refusal) = Some(refusal);
        let waiting = ["a", "b"].map(|name| ask(&origin, name, 1, true));
        let alone = |asked: &[(String, String)]| {
            let is_alone = |(request, _): &&(String, String)| request.contains("/head?after=1");
            asked.iter().filter(is_alone).count() == 2
        };
        master.wait_for(alone).await;
        ["a", "b"].into_iter().for_each(|name| master.move_to(name, 2));
        let [a, b] = waiting;
        assert_eq!(seen(&told(a).await), seen(&head("a 2")), "{refusal}");
        assert_eq!(seen(&told(b).await), seen(&head("b 2")), "{refusal}");
        // It is remembered,
        assert_eq!(seen(&told(ask(&origin, "a", 1, true)).await), seen(&head("a 2")));
        master.polls(1).await;
        // until there is a sign that it may be another program now.
        *lock(&master.refusal) = None;
        origin.polls.master_was_away();
        let waiting = ask(&origin, "a", 2, true);
        assert_eq!(master.polls(2).await, ["a 2"]);
        waiting.abort();
    }
}

#[tokio::test]
async fn a_master_that_fails_fails_all_who_wait_and_is_asked_anew() {
    let (master, origin) = Master::start(&[("a", 1), ("b", 1)]).await;
    *lock(&master.refusal) = Some("503 Service Unavailable");
    for waiting in ["a", "b"].map(|name| ask(&origin, name, 1, true)) {
        let error = told(waiting).await.unwrap_err();
        assert!(
            matches!(&error, TransportError::Unreachable { reason, .. } if reason.contains("503")),
            "{error}"
        );
    }
    *lock(&master.refusal) = None;
    master.move_to("b", 2);
    assert_eq!(seen(&told(ask(&origin, "b", 1, true)).await), seen(&head("b 2")));
    // Two clones that follow the same repository differently cannot be in one question.
    let one = ask(&origin, "a", 1, true);
    master
        .wait_for(|asked| polls_in(asked).last() == Some(&"a 1\nb 2 pending\n"))
        .await;
    assert_eq!(seen(&told(ask(&origin, "a", 0, true)).await), seen(&head("a 1")));
    one.abort();
}
