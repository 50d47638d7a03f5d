//! A master over HTTP: [`PeerTransport`] for objects, [`Upstream`](instantmirror_core::traits::Upstream) for heads and catalogs
//! (docs/formats/api.md). Verifies nothing; whoever asks does.

mod connect;
mod heads;
mod outgoing;
mod patience;
mod redirect;
mod tls;
mod upstream;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use instantmirror_core::address::AddressPolicy;
use instantmirror_core::batch::{self, BatchDecoder, BatchOrder};
use instantmirror_core::traits::{BatchItem, ByteStream, Class, PeerTransport, TransportError};
use instantmirror_core::url::SecretUrl;
use instantmirror_core::{ObjectId, Outboard, RepoName, SnapshotId};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header};

use connect::{Connections, Lane};
pub(crate) use connect::{PolicyResolver, address_of};
use heads::HeadPolls;
pub use outgoing::{Outgoing, Proxies};
use patience::Patience;
pub(crate) use redirect::by_proxy;
pub(crate) use tls::reason_of;

/// How long connecting may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may make no progress. A dead link sends no reset, so this is what ends it.
pub const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// How much longer than it was asked to a server may hold a head request, beyond which the link is taken for dead.
pub const LONG_POLL_GRACE: Duration = Duration::from_secs(20);
/// Largest snapshot record that is read.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// Largest list of torrents that is read.
const TORRENT_LIST_BYTES_MAX: usize = 8 << 20;
/// Largest `.torrent` file that is read: the info dictionaries that are offered have 8 MB at most.
const TORRENT_BYTES_MAX: usize = 9 << 20;

/// Bytes a second that a transfer has to make on average, once it took longer than [`PROGRESS_TIMEOUT`]: who sends a byte
/// now and then would otherwise keep a node waiting for ever, and from asking somebody else.
pub const RATE_MIN: u64 = 1024;

/// The urgency of RFC 9218 for what runs in the background.
const BACKGROUND: header::HeaderValue = header::HeaderValue::from_static("u=7");

/// How fast a transfer is.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn is_too_slow(self) -> bool {
        self.waited > PROGRESS_TIMEOUT && self.bytes < self.waited.as_secs() * RATE_MIN
    }
}

/// A master's HTTP address. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct HttpOrigin {
    shared: Arc<Shared>,
    /// Without user name and password, which go into a header.
    base: Url,
    label: String,
    /// Says who we are.
    authorization: Option<header::HeaderValue>,
    /// Of all clones, which are the same to the master.
    polls: Arc<HeadPolls>,
    /// By which the master tells us from others at our address.
    node_id: Option<u64>,
}

/// One state for all clones.
#[derive(Debug)]
struct Shared {
    connections: Connections,
    moved: Mutex<Moved>,
    patience: Mutex<Patience>,
}

/// Where a master has sent us.
#[derive(Debug, Default)]
struct Moved {
    /// For good, so that it is asked there at once.
    to: Option<Url>,
    /// The places of which the operator was told.
    told: BTreeSet<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn new(connections: Connections) -> Arc<Self> {
        Arc::new(Self {
            connections,
            moved: Mutex::default(),
            patience: Mutex::default(),
        })
    }
}

impl fmt::Debug for HttpOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpOrigin({})", self.label)
    }
}

impl HttpOrigin {
    /// A master at `base`, for instance `https://master.example.org`. A user name and a password in it are sent with each
    /// request to that host, and shown nowhere. Nothing is connected yet.
    ///
    /// # Errors
    /// [`TransportError::Refused`] if `base` is not an absolute `http` or `https` URL.
    pub fn new(base: &str) -> Result<Self, TransportError> {
        let label = SecretUrl::from(base).to_string();
        let refused = |reason: String| TransportError::Refused {
            from: label.clone(),
            reason,
        };
        let mut url = Url::parse(base).map_err(|error| refused(format!("not a URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(refused("not an http or https URL".to_owned()));
        }
        url.set_fragment(None);
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let authorization = redirect::take_user(&mut url);
        Ok(Self {
            shared: Shared::new(Connections::default()),
            base: url,
            label: label.trim_end_matches('/').to_owned(),
            authorization,
            polls: Arc::default(),
            node_id: None,
        })
    }

    /// Says who we are, with the token that the master gave us: then it tells us of what is staged.
    ///
    /// # Errors
    /// [`TransportError::Refused`] if the way there is neither encrypted nor inside this machine, so that others could
    /// hear the token, or if it is no token.
    pub fn with_token(mut self, token: &str) -> Result<Self, TransportError> {
        let refused = |reason: &str| TransportError::Refused {
            from: self.label.clone(),
            reason: reason.to_owned(),
        };
        if self.authorization.is_some() {
            return Err(refused(
                "a request has room for a token or for a user name, not for both: leave the user name out of the URL",
            ));
        }
        if !redirect::is_private(&self.base) {
            return Err(refused("a token is sent over https or inside this machine only"));
        }
        let value = header::HeaderValue::from_str(&format!("Bearer {token}"));
        let mut value = value.map_err(|_| refused("its token holds characters that no token has"))?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        // Another one than its clones so far.
        self.polls = Arc::default();
        Ok(self)
    }

    /// Tells the master a number with each poll for heads, so that its operator can tell us from others at our address. To
    /// be kept for as long as we are the same node, and to be another one for each master.
    #[must_use]
    pub fn with_node_id(mut self, id: u64) -> Self {
        self.node_id = Some(id);
        self
    }

    /// Deals with no address that the policy does not admit, whatever the master's name resolves to and wherever it sends
    /// us, and with preferred ones first.
    ///
    /// # Errors
    /// As [`with_outgoing`](Self::with_outgoing).
    pub fn with_policy(self, policy: &AddressPolicy) -> Result<Self, TransportError> {
        self.with_outgoing(&Outgoing::to(policy))
    }

    /// Connects so: by a proxy, believing authorities, as somebody, and to no address that is not admitted.
    ///
    /// # Errors
    /// [`TransportError::Refused`] if the master is named by an address that is not admitted, or if no connection can be made
    /// so ([`Outgoing::check`]).
    pub fn with_outgoing(mut self, outgoing: &Outgoing) -> Result<Self, TransportError> {
        let connections = Connections::new(outgoing);
        if connections.refuses(&self.base) {
            return Err(self.refused(format!("the configuration admits nothing at {}", self.host())));
        }
        self.shared = Shared::new(connections);
        self.polls = Arc::default();
        Ok(self)
    }

    /// The host in its URL, as it was written.
    #[must_use]
    pub fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    /// The same, if it is an address and no name.
    #[must_use]
    pub fn host_address(&self) -> Option<IpAddr> {
        address_of(&self.base)
    }

    /// Who it is, for logs and statistics: its URL, without what may be secret.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Tells the master that we have all of a staged snapshot. It wants a [token](Self::with_token).
    ///
    /// # Errors
    /// Any [`TransportError`]; [`TransportError::NotFound`] if it is not staged (any more).
    pub async fn report_synced(&self, repository: &RepoName, snapshot: SnapshotId) -> Result<(), TransportError> {
        let request = self
            .request(Lane::Common, Method::POST, repository, "synced")?
            .body(snapshot.to_string());
        let what = format!("staged snapshot {snapshot}");
        self.send(&what, request, PROGRESS_TIMEOUT).await.map(drop)
    }

    /// What the master tells of a repository's swarm: JSON, not looked at.
    ///
    /// # Errors
    /// Any [`TransportError`]; [`TransportError::NotFound`] if there is none.
    pub async fn swarm(&self, repository: &RepoName) -> Result<Bytes, TransportError> {
        let request = self.request(Lane::Common, Method::GET, repository, "swarm")?;
        let response = self.send("a swarm", request, PROGRESS_TIMEOUT).await?;
        self.collect(response, RECORD_BYTES_MAX).await
    }

    /// The list of the torrents that the master offers of a repository: JSON, not looked at.
    ///
    /// # Errors
    /// Any [`TransportError`]; [`TransportError::NotFound`] if it offers none.
    pub async fn torrents(&self, repository: &RepoName) -> Result<Bytes, TransportError> {
        let request = self.torrent_request(&[repository.as_str()])?;
        let response = self.send("a list of torrents", request, PROGRESS_TIMEOUT).await?;
        self.collect(response, TORRENT_LIST_BYTES_MAX).await
    }

    /// The same for whoever has a version of the list: `None` if it is still that one.
    ///
    /// # Errors
    /// As [`torrents`](Self::torrents).
    pub async fn torrents_unless(&self, repository: &RepoName, version: &str) -> Result<Option<Bytes>, TransportError> {
        let request = self.torrent_request(&[repository.as_str()])?;
        let request = request.query(&[("unless", version)]);
        let response = self.send("a list of torrents", request, PROGRESS_TIMEOUT).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        self.collect(response, TORRENT_LIST_BYTES_MAX).await.map(Some)
    }

    /// One of their `.torrent` files, not looked at.
    ///
    /// # Errors
    /// As [`torrents`](Self::torrents).
    pub async fn torrent(&self, repository: &RepoName, file: &str) -> Result<Bytes, TransportError> {
        let request = self.torrent_request(&[repository.as_str(), file])?;
        let response = self.send(file, request, PROGRESS_TIMEOUT).await?;
        self.collect(response, TORRENT_BYTES_MAX).await
    }

    fn torrent_request(&self, below: &[&str]) -> Result<RequestBuilder, TransportError> {
        let mut url = self.base_now();
        // Files may be called as they like.
        match url.path_segments_mut() {
            Ok(mut path) => _ = path.pop_if_empty().extend([".im", "torrent"]).extend(below),
            Err(()) => return Err(self.protocol("a URL without a path")),
        }
        self.request_to(Lane::Common, Method::GET, url)
    }

    fn request(
        &self,
        lane: Lane,
        method: Method,
        repository: &RepoName,
        path: &str,
    ) -> Result<RequestBuilder, TransportError> {
        let mut url = self.base_now();
        // Names and hashes are URL safe as they are.
        url.set_path(&format!("{}.im/v1/{repository}/{path}", url.path()));
        self.request_to(lane, method, url)
    }

    fn request_to(&self, lane: Lane, method: Method, url: Url) -> Result<RequestBuilder, TransportError> {
        let may_be_told = self.may_be_told(&url);
        let clients = self.shared.connections.clients(may_be_told);
        let clients = clients.map_err(|error| self.unreachable(&error))?;
        let authorization = self.authorization.as_ref().filter(|_| may_be_told);
        let request = clients.of(lane).request(method, url);
        Ok(match authorization {
            Some(value) => request.header(header::AUTHORIZATION, value.clone()),
            None => request,
        })
    }

    /// Sees to it that there is a connection for whoever comes to wait for something.
    fn keep_warm(&self, repository: &RepoName) {
        let (origin, repository) = (self.clone(), repository.clone());
        // That it fails shows where something is asked for.
        tokio::spawn(async move {
            let request = origin.request(Lane::Urgent, Method::HEAD, &repository, "head").ok()?;
            origin.follow(request, PROGRESS_TIMEOUT).await.ok()
        });
    }

    /// A request that the other side may answer later than others, if nobody waits for it.
    fn request_for(
        &self,
        class: Class,
        method: Method,
        repository: &RepoName,
        path: &str,
    ) -> Result<RequestBuilder, TransportError> {
        if !class.is_background() {
            return self.request(Lane::Urgent, method, repository, path);
        }
        let request = self.request(Lane::Background, method, repository, path)?;
        Ok(request.header("priority", BACKGROUND))
    }

    async fn send(&self, what: &str, request: RequestBuilder, wait: Duration) -> Result<Response, TransportError> {
        let response = self.follow(request, wait).await?;
        let (status, at) = (response.status(), response.url());
        match status {
            status if status.is_success() => Ok(response),
            _ if is_of_proxy(&response) && self.shared.connections.proxy(at).is_some() => {
                // The master has said nothing, and may be well.
                Err(self.unreachable_at(at, format!("the proxy answers {status} for {what}")))
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(TransportError::NotFound {
                from: self.label.clone(),
                what: self.told_of(at, what.to_owned()),
            }),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(self.unreachable_at(at, format!("{status} for {what}")))
            }
            status => Err(self.refused(self.told_of(at, format!("{status} for {what}")))),
        }
    }

    fn unreachable_at(&self, at: &Url, reason: String) -> TransportError {
        self.unreachable(&self.told_of(at, reason))
    }

    fn refused(&self, reason: String) -> TransportError {
        TransportError::Refused {
            from: self.label.clone(),
            reason,
        }
    }

    fn unreachable(&self, reason: &str) -> TransportError {
        TransportError::Unreachable {
            from: self.label.clone(),
            reason: reason.to_owned(),
        }
    }

    fn protocol(&self, reason: impl ToString) -> TransportError {
        TransportError::Protocol {
            from: self.label.clone(),
            reason: reason.to_string(),
        }
    }

    fn broken(&self, at: &Url, error: &reqwest::Error) -> TransportError {
        self.unreachable_at(at, reason_of(error))
    }

    /// The body as it arrives; fails when it makes no progress, or next to none.
    fn body(&self, response: Response) -> impl Stream<Item = Result<Bytes, TransportError>> + Send + use<> {
        let (origin, at) = (self.clone(), response.url().clone());
        let pace = Pace::default();
        stream::unfold(
            Some((origin, at, response.bytes_stream().boxed(), pace)),
            |state| async move {
                let (origin, at, mut body, mut pace) = state?;
                let asked = tokio::time::Instant::now();
                let next = tokio::time::timeout(PROGRESS_TIMEOUT, body.next()).await;
                // What whoever reads this does in between is not the sender's fault.
                pace.waited += asked.elapsed();
                match next {
                    Ok(None) => None,
                    Ok(Some(Ok(bytes))) => {
                        pace.bytes += bytes.len() as u64;
                        if pace.is_too_slow() {
                            let reason = "the transfer is too slow".to_owned();
                            return Some((Err(origin.unreachable_at(&at, reason)), None));
                        }
                        Some((Ok(bytes), Some((origin, at, body, pace))))
                    }
                    Ok(Some(Err(error))) => Some((Err(origin.broken(&at, &error)), None)),
                    Err(_) => {
                        let reason = "the transfer makes no progress".to_owned();
                        Some((Err(origin.unreachable_at(&at, reason)), None))
                    }
                }
            },
        )
    }

    /// The whole body, if it is not longer than `max`.
    async fn collect(&self, response: Response, max: usize) -> Result<Bytes, TransportError> {
        let mut body = std::pin::pin!(self.body(response));
        let mut collected = Vec::new();
        while let Some(part) = body.next().await {
            collected.extend_from_slice(&part?);
            if collected.len() > max {
                return Err(self.protocol(format!("an answer of more than {max} bytes")));
            }
        }
        Ok(collected.into())
    }

    /// `body` cut to exactly `expected` bytes: more is a protocol error, less a broken transfer.
    fn exactly(
        &self,
        body: impl Stream<Item = Result<Bytes, TransportError>> + Send + 'static,
        expected: u64,
    ) -> ByteStream {
        let origin = self.clone();
        let state = Some((Box::pin(body), expected));
        Box::pin(stream::unfold(state, move |state| {
            let origin = origin.clone();
            async move {
                let (mut body, left) = state?;
                match body.next().await {
                    Some(Ok(bytes)) if bytes.len() as u64 > left => {
                        Some((Err(origin.protocol("more bytes than asked for")), None))
                    }
                    Some(Ok(bytes)) => {
                        let left = left - bytes.len() as u64;
                        Some((Ok(bytes), Some((body, left))))
                    }
                    Some(Err(error)) => Some((Err(error), None)),
                    None if left > 0 => Some((
                        Err(origin.unreachable(&format!("the transfer broke off {left} bytes early"))),
                        None,
                    )),
                    None => None,
                }
            }
        }))
    }
}

/// Whether a proxy has made this answer itself: it wants to know who we are, or is a Squid and says so.
fn is_of_proxy(response: &Response) -> bool {
    let status = response.status();
    status == StatusCode::PROXY_AUTHENTICATION_REQUIRED || response.headers().contains_key("x-squid-error")
}

#[async_trait]
impl PeerTransport for HttpOrigin {
    fn label(&self) -> &str {
        &self.label
    }

    async fn answer_time(&self, repository: &RepoName) -> Option<Duration> {
        let request = self.request(Lane::Watching, Method::HEAD, repository, "head").ok()?;
        let asked = tokio::time::Instant::now();
        let answer = self.follow(request, PROGRESS_TIMEOUT).await.ok()?;
        // That there is no head is an answer too; that the server is not well is none to go by.
        (!answer.status().is_server_error()).then(|| asked.elapsed())
    }

    async fn range(
        &self,
        repository: &RepoName,
        object: &ObjectId,
        range: Range<u64>,
        class: Class,
    ) -> Result<ByteStream, TransportError> {
        if range.is_empty() {
            return Ok(Box::pin(stream::empty()));
        }
        let value = format!("bytes={}-{}", range.start, range.end - 1);
        let request = self
            .request_for(class, Method::GET, repository, &format!("objects/{object}"))?
            .header(header::RANGE, value);
        let response = self
            .send(&format!("object {object}"), request, PROGRESS_TIMEOUT)
            .await?;
        let expected = range.end - range.start;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let said = response
                    .headers()
                    .get(header::CONTENT_RANGE)
                    .and_then(|value| value.to_str().ok());
                let prefix = format!("bytes {}-{}/", range.start, range.end - 1);
                if !said.is_some_and(|said| said.starts_with(&prefix)) {
                    return Err(self.protocol(format!("another range of object {object} than asked for")));
                }
            }
            StatusCode::OK if range.start == 0 => {
                if response.content_length().is_some_and(|len| len != expected) {
                    return Err(self.protocol(format!("object {object} has another size there")));
                }
            }
            status => return Err(self.protocol(format!("{status} for a range of object {object}"))),
        }
        Ok(self.exactly(self.body(response), expected))
    }

    async fn outboard(
        &self,
        repository: &RepoName,
        object: &ObjectId,
        size: u64,
        class: Class,
    ) -> Result<Bytes, TransportError> {
        let request = self.request_for(class, Method::GET, repository, &format!("objects/{object}/outboard"))?;
        let response = self
            .send(&format!("outboard of object {object}"), request, PROGRESS_TIMEOUT)
            .await?;
        let len = Outboard::len_for(size);
        let max = usize::try_from(len).map_err(|_| self.protocol("an outboard too large for this machine"))?;
        let outboard = self.collect(response, max).await?;
        if outboard.len() == max {
            Ok(outboard)
        } else {
            Err(self.unreachable("the transfer broke off early"))
        }
    }

    async fn batch(
        &self,
        repository: &RepoName,
        objects: &[(ObjectId, u64)],
        class: Class,
        sink: &mut (dyn FnMut(BatchItem) + Send),
    ) -> Result<(), TransportError> {
        let mut order = BatchOrder::new(objects);
        let body = batch::encode_request(order.requested().iter().map(|(object, _)| object));
        let request = self.request_for(class, Method::POST, repository, "batch")?.body(body);
        let response = self.send("a batch", request, PROGRESS_TIMEOUT).await?;
        let mut body = std::pin::pin!(self.body(response));
        let mut decoder = BatchDecoder::new(order.requested());
        while let Some(part) = body.next().await {
            decoder.push(&part?);
            while let Some((object, content)) = decoder.next_item().map_err(|error| self.protocol(error))? {
                let missing = || TransportError::NotFound {
                    from: self.label.clone(),
                    what: format!("object {object}"),
                };
                order.answered((object, content.ok_or_else(missing)), sink);
            }
        }
        decoder.finish().map_err(|error| self.unreachable(&error.to_string()))
    }
}

#[cfg(test)]
mod tests;
