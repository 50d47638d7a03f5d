//! One stream: a request, and its answer as fast as the client gives window for it.
//!
//! Invariant: bytes are read once there is window for them, and handed over with their share of the connection's budget.
//! So a stream without window holds nothing but its reader.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::SemaphorePermit;

use super::budget::{Budget, Stream, Unsent};
use super::excess::refusal;
use super::pace::Pace;
use crate::body::Answer;
use crate::body::{BodyError, Inner, ObjectBody, Pieces};
use crate::connection::Shared;
use crate::message::request::{Client, Fields};
use crate::message::wire;
use crate::observe::{AccessLogEntry, LoggedRequest, Observer};
use crate::service::Service;

/// Fields about a connection of HTTP/1.1 (RFC 9113, 8.2.2).
const OF_CONNECTIONS: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Why an answer ended before its end.
enum Broken {
    /// The client or its connection went away.
    Gone,
    /// The client takes it too slowly.
    Slow,
    /// What is to be sent cannot be had, which is in the log already.
    Source,
}

/// Answers one request to its end.
pub(super) async fn answer(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Unsent>,
    address: IpAddr,
    shared: Arc<Shared>,
    stream: Stream,
) {
    let begun = std::time::Instant::now();
    let service = Arc::clone(&shared.services.borrow());
    let (head, body) = request.into_parts();
    let address = service.proxies().client(address, &Fields::new(&head.headers));
    let mut client = Client::default();
    (client.address, client.is_private) = (Some(address), true);
    let budget = stream.budget();
    let answer = async {
        match refusal(&head, &client, &service, &shared, budget.place()).await {
            Some(refusal) => refusal,
            None => {
                let body = RequestBody::new(body, &head.headers);
                service.pass(&head, client, body, &shared.stopping).await
            }
        }
    };
    let is_reset = |cx: &mut Context<'_>| respond.poll_reset(cx).map(drop);
    let Some(mut answer) = Box::pin(unless_gone(answer, is_reset)).await else {
        return;
    };
    let mut observer = service.observer();
    observer.answers(answer.status(), entry(&service, &head, address, begun));
    let has_body = complete(&head.method, &mut answer);
    if answer.body().is_kept() {
        observer.was_ready(has_body);
    }
    let (mut parts, body) = answer.into_parts();
    parts.version = http::Version::HTTP_2;
    let response = http::Response::from_parts(parts, ());
    let Ok(send) = respond.send_response(response, !has_body) else {
        return;
    };
    if !has_body {
        return;
    }
    if let Some(reader) = body.reader() {
        observer.reads(reader);
    }
    let left = body.len();
    let mut sending = Sending {
        send,
        source: Source::new(body.into_inner(), &budget),
        left,
        pace: Pace::new(&shared.limits),
        budget: &budget,
        observer,
    };
    if let Err(broken) = sending.run().await {
        sending.observer.breaks();
        sending.break_off(&broken, stream).await;
    }
}

/// Adds what every answer has on this version, and takes away what none may have. Returns whether a body follows.
fn complete(method: &Method, answer: &mut Answer) -> bool {
    let (status, len) = (answer.status(), answer.body().len());
    let may_have_body =
        !(status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED));
    let is_head = *method == Method::HEAD;
    let headers = answer.headers_mut();
    for name in OF_CONNECTIONS {
        headers.remove(name);
    }
    // What would have been the length of the answer to a GET is known only if the answer says so.
    if let Some(len) = len.filter(|len| may_have_body && !(is_head && *len == 0)) {
        headers.entry(header::CONTENT_LENGTH).or_insert_with(|| len.into());
    }
    headers.insert(header::DATE, wire::date());
    may_have_body && !is_head && len != Some(0)
}

/// Waits for something unless the client is gone.
async fn unless_gone<T>(
    something: impl Future<Output = T>,
    mut is_reset: impl FnMut(&mut Context<'_>) -> Poll<()>,
) -> Option<T> {
    let mut something = pin!(something);
    poll_fn(|cx| match something.as_mut().poll(cx) {
        Poll::Ready(came) => Poll::Ready(Some(came)),
        Poll::Pending => is_reset(cx).map(|()| None),
    })
    .await
}

/// A body on its way out.
struct Sending<'a> {
    send: SendStream<Unsent>,
    source: Source<'a>,
    /// Bytes to come, if that is known.
    left: Option<u64>,
    pace: Pace,
    budget: &'a Arc<Budget>,
    observer: Observer,
}

impl Sending<'_> {
    async fn run(&mut self) -> Result<(), Broken> {
        loop {
            // First: whoever waits for a source must not have taken the connection's window from others.
            let is_reset = |cx: &mut Context<'_>| self.send.poll_reset(cx).map(drop);
            let ready = unless_gone(self.source.ready(), is_reset).await;
            match ready.ok_or(Broken::Gone)? {
                Ok(true) => {}
                Ok(false) => return self.hand_over(Unsent::nothing(), true),
                Err(_) => return Err(Broken::Source),
            }
            let piece = self.budget.piece_bytes();
            let most = self.left.and_then(|left| usize::try_from(left).ok());
            let window = self.window(most.unwrap_or(piece).clamp(1, piece)).await?;
            let mut share = match self.budget.share(window).now_or_never() {
                Some(share) => share,
                None => {
                    self.source.let_go();
                    self.budget.share(window).await
                }
            };
            let bytes = self.source.take(window).await.map_err(|_| Broken::Source)?;
            let sent = bytes.len();
            share.shrink(sent);
            self.left = self.left.map(|left| left.saturating_sub(sent as u64));
            let is_last = self.left == Some(0);
            if sent == 0 {
                return Err(Broken::Source);
            }
            self.observer.sent(sent as u64);
            self.hand_over(Unsent::new(bytes, share), is_last)?;
            if is_last {
                return Ok(());
            }
            if sent < window {
                self.send.reserve_capacity(0);
            }
        }
    }

    /// Waits for window for at most `wanted` bytes.
    async fn window(&mut self, wanted: usize) -> Result<usize, Broken> {
        self.send.reserve_capacity(wanted);
        let window = poll_fn(|cx| {
            loop {
                let window = self.send.capacity();
                if window > 0 {
                    return Poll::Ready(Ok(window.min(wanted)));
                }
                match self.send.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(_) => return Poll::Ready(Err(Broken::Gone)),
                    Poll::Pending => {
                        self.source.let_go();
                        ready!(self.pace.poll_stalled(cx, self.budget));
                        return Poll::Ready(Err(Broken::Slow));
                    }
                }
            }
        })
        .await?;
        if self.pace.sends(window, self.budget) {
            return Err(Broken::Slow);
        }
        Ok(window)
    }

    fn hand_over(&mut self, bytes: Unsent, is_last: bool) -> Result<(), Broken> {
        self.send.send_data(bytes, is_last).map_err(|_| Broken::Gone)
    }

    /// Resets the stream, so that a short answer never looks like a whole one.
    async fn break_off(mut self, broken: &Broken, stream: Stream) {
        match broken {
            Broken::Gone => {}
            Broken::Slow => {
                tracing::debug!("a client takes an answer too slowly; its stream is reset");
                self.observer.stream_times_out();
                stream.ends_stalled();
                self.send.send_reset(Reason::CANCEL);
            }
            Broken::Source => {
                // The verified bytes before the failure may still be of use, and a reset throws away what was not sent.
                let is_reset = |cx: &mut Context<'_>| self.send.poll_reset(cx).map(drop);
                let _ = unless_gone(self.budget.drained(), is_reset).await;
                self.send.send_reset(Reason::INTERNAL_ERROR);
            }
        }
    }
}

/// Where the bytes of a body come from.
enum Source<'a> {
    Whole(Bytes),
    /// Pieces of whatever size, what is left of the last one, and the right to hold it.
    Pieces {
        pieces: Pieces,
        rest: Bytes,
        budget: &'a Budget,
        permit: Option<SemaphorePermit<'a>>,
    },
    Object(Box<ObjectBody>),
}

impl<'a> Source<'a> {
    fn new(inner: Inner, budget: &'a Budget) -> Self {
        match inner {
            Inner::Whole(bytes) => Self::Whole(bytes.unwrap_or_default()),
            Inner::Pieces(pieces, _) => Self::Pieces {
                pieces,
                rest: Bytes::new(),
                budget,
                permit: None,
            },
            Inner::Object(body) => Self::Object(body),
        }
    }

    /// Waits until there is a next byte, and returns whether there is one.
    async fn ready(&mut self) -> Result<bool, BodyError> {
        match self {
            Self::Whole(bytes) => Ok(!bytes.is_empty()),
            Self::Object(body) => body.ready().await,
            Self::Pieces {
                pieces,
                rest,
                budget,
                permit,
            } => {
                if rest.is_empty() {
                    *permit = budget.piece().await;
                    *rest = pieces.next().await.transpose()?.unwrap_or_default();
                }
                Ok(!rest.is_empty())
            }
        }
    }

    /// Lets go of what can be had again.
    fn let_go(&mut self) {
        if let Self::Object(body) = self {
            body.let_go();
        }
    }

    /// At most `max` of the next bytes, which are ready.
    async fn take(&mut self, max: usize) -> Result<Bytes, BodyError> {
        match self {
            Self::Whole(bytes) => Ok(bytes.split_to(max.min(bytes.len()))),
            Self::Object(body) => body.next_bytes(max as u64).await,
            Self::Pieces { rest, permit, .. } => {
                let taken = rest.split_to(max.min(rest.len()));
                if rest.is_empty() {
                    *permit = None;
                }
                Ok(taken)
            }
        }
    }
}

/// The entry of the access log about a request, if there is a log.
fn entry(service: &Service, head: &Parts, address: IpAddr, begun: std::time::Instant) -> Option<AccessLogEntry> {
    let log = service.access_log()?;
    let field = |name| head.headers.get(name).map(HeaderValue::as_bytes);
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let host = head.uri.authority().map(Authority::as_str);
    let request = LoggedRequest {
        address: Some(address),
        line: &[head.method.as_str(), target, "HTTP/2.0"].map(str::as_bytes),
        host: host.or_else(|| head.headers.get(header::HOST)?.to_str().ok()),
        referer: field(header::REFERER),
        agent: field(header::USER_AGENT),
        begun,
    };
    Some(AccessLogEntry::new(log, &request))
}

/// The body of a request as the service takes it.
struct RequestBody {
    stream: RecvStream,
    /// What the request says.
    len: Option<u64>,
}

impl RequestBody {
    fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let len = headers.get(header::CONTENT_LENGTH);
        let len = len.and_then(|len| len.to_str().ok()?.parse().ok());
        Self { stream, len }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let Some(read) = ready!(self.stream.poll_data(cx)) else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(read.and_then(|bytes| {
            self.stream.flow_control().release_capacity(bytes.len())?;
            self.len = self.len.map(|len| len.saturating_sub(bytes.len() as u64));
            Ok(Frame::data(bytes))
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.len.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::ServeBody;

    #[test]
    fn an_answer_is_completed_as_its_version_has_it() {
        let body = || ServeBody::whole(Bytes::from_static(b"12345"));
        let nothing = || ServeBody::whole(Bytes::new());
        for (method, status, body, length, has_body) in [
            (Method::GET, 200, body(), Some("5"), true),
            (Method::GET, 200, nothing(), Some("0"), false),
            (Method::HEAD, 404, body(), Some("5"), false),
            (Method::HEAD, 200, nothing(), None, false),
            (Method::GET, 304, nothing(), None, false),
            (Method::GET, 204, nothing(), None, false),
        ] {
            let mut answer = http::Response::new(body);
            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
            answer
                .headers_mut()
                .insert("connection", HeaderValue::from_static("close"));
            assert_eq!(complete(&method, &mut answer), has_body, "{method} {status}");
            let headers = answer.headers();
            let told = headers.get("content-length").map(|len| len.to_str().unwrap());
            assert_eq!(told, length, "{method} {status}");
            assert!(!headers.contains_key("connection"));
            assert!(headers["date"].to_str().unwrap().ends_with(" GMT"));
        }
    }
}
