//! Moves announces over HTTP and UDP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::select;
use instantmirror_core::address::AddressPolicy;
use instantmirror_core::url::SecretUrl;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, StatusCode};
use rustls::ClientConfig;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout, timeout_at};

use super::{AnnounceError, AnnounceReply, AnnounceRequest, REPLY_BYTES_MAX, REPLY_PEERS_MAX, TrackerUrl, http, udp};
use crate::contacts::is_v4;
use crate::origin::{Outgoing, Proxies, address_of, by_proxy, reason_of};

/// Redirects that are followed for one announce.
const REDIRECTS_MAX: usize = 4;

/// How long trackers are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the answer to the first datagram, before it is sent again; doubles with each (BEP 15).
    pub datagram: Duration,
    /// For a whole announce.
    pub announce: Duration,
    /// For the same announce by the other address family, once there was an answer by one.
    pub other_family: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            datagram: Duration::from_secs(15),
            announce: Duration::from_secs(30),
            other_family: Duration::from_secs(5),
        }
    }
}

/// Announces to trackers. Those that can be reached by IPv4 and by IPv6 hear of us by both (BEP 7), so that peers of either
/// family learn our address of that family.
#[derive(Debug, Clone)]
pub struct Announcer {
    /// One that speaks IPv4, one that speaks IPv6.
    http: [Client; 2],
    policy: AddressPolicy,
    proxies: Proxies,
    timeouts: Timeouts,
    /// Where it announces from, by family.
    local: [IpAddr; 2],
}

impl Announcer {
    /// An announcer that deals with no tracker at an address that the policy does not admit. Of the peers that it brings the
    /// policy is not asked.
    ///
    /// # Errors
    /// [`AnnounceError::Unreachable`] if the system has no certificates to trust, or the like.
    pub fn new(policy: &AddressPolicy, timeouts: Timeouts) -> Result<Self, AnnounceError> {
        Self::with_local(
            &Outgoing::to(policy),
            timeouts,
            [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        )
    }

    /// Announces from the addresses that we listen on, where they are some in particular: trackers tell peers of the address
    /// that an announce comes from.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_addresses(outgoing: &Outgoing, timeouts: Timeouts, listen: &[IpAddr]) -> Result<Self, AnnounceError> {
        let any = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let own = any.map(|any: IpAddr| {
            let mut same = listen.iter().filter(|own| own.is_ipv4() == any.is_ipv4());
            same.next().copied().unwrap_or(any)
        });
        Self::with_local(outgoing, timeouts, own)
    }

    fn with_local(outgoing: &Outgoing, timeouts: Timeouts, local: [IpAddr; 2]) -> Result<Self, AnnounceError> {
        let tls = outgoing.tls().map_err(AnnounceError::Unreachable)?;
        let client = |local| client(outgoing, &tls, timeouts, local).map_err(AnnounceError::Unreachable);
        let [v4, v6] = local.map(client);
        Ok(Self {
            http: [v4?, v6?],
            policy: outgoing.policy.clone(),
            proxies: outgoing.proxies.clone(),
            timeouts,
            local,
        })
    }

    /// Tells a tracker of us, and returns what it answered. Takes no longer than [`Timeouts::announce`], and fails when nothing
    /// was heard until then. When it is dropped before it is done, the tracker may have heard of us or not.
    ///
    /// # Errors
    /// [`AnnounceError`].
    pub async fn announce(
        &self,
        tracker: &TrackerUrl,
        request: &AnnounceRequest,
    ) -> Result<AnnounceReply, AnnounceError> {
        let deadline = Instant::now() + self.timeouts.announce;
        if let Some(proxy) = self.proxies.of(tracker.url()).filter(|_| !tracker.is_udp()) {
            let announced = timeout_at(deadline, self.announce_by_proxy(tracker, request)).await;
            let by_proxy = |error| match error {
                AnnounceError::Unreachable(reason) => AnnounceError::Unreachable(by_proxy(reason, proxy)),
                other => other,
            };
            return announced.map_err(|_| self.late()).flatten().map_err(by_proxy);
        }
        let addresses = timeout_at(deadline, self.addresses(tracker)).await;
        let addresses = addresses.map_err(|_| self.late())??;
        self.announce_at(tracker, request, addresses, deadline).await
    }

    /// The same, at an address of either family.
    async fn announce_at(
        &self,
        tracker: &TrackerUrl,
        request: &AnnounceRequest,
        [v4, v6]: [Option<SocketAddr>; 2],
        deadline: Instant,
    ) -> Result<AnnounceReply, AnnounceError> {
        let by = |address| async move {
            let reply = timeout_at(deadline, self.announce_to(tracker, request, address)).await;
            reply.map_err(|_| self.late()).flatten()
        };
        match (v4, v6) {
            (Some(v4), Some(v6)) => {
                let (v4, v6) = (std::pin::pin!(by(v4)), std::pin::pin!(by(v6)));
                let (first, rest) = select(v4, v6).await.factor_first();
                let other = match &first {
                    Ok(_) => timeout(self.timeouts.other_family, rest).await.ok(),
                    Err(_) => Some(rest.await),
                };
                merge(first, other)
            }
            (Some(address), None) | (None, Some(address)) => by(address).await,
            (None, None) => Err(AnnounceError::Unreachable(
                "the configuration admits none of its addresses".to_owned(),
            )),
        }
    }

    /// The same by a proxy, which alone has to know where the tracker is: names of the world may lead nowhere here.
    async fn announce_by_proxy(
        &self,
        tracker: &TrackerUrl,
        request: &AnnounceRequest,
    ) -> Result<AnnounceReply, AnnounceError> {
        let [v4, v6] = &self.http;
        match announce_by_http(v4, tracker, request).await {
            // The proxy may have no address of IPv4.
            Err(AnnounceError::Unreachable(reason)) => {
                let other = announce_by_http(v6, tracker, request).await;
                other.map_err(|_| AnnounceError::Unreachable(reason))
            }
            announced => announced,
        }
    }

    fn late(&self) -> AnnounceError {
        AnnounceError::Unreachable(format!("no answer in {:?}", self.timeouts.announce))
    }

    /// One admitted address of each family, drawn if there are several.
    async fn addresses(&self, tracker: &TrackerUrl) -> Result<[Option<SocketAddr>; 2], AnnounceError> {
        let found = tokio::net::lookup_host(tracker.place()).await;
        let found = found.map_err(|error| AnnounceError::Unreachable(format!("its name leads nowhere: {error}")))?;
        let admitted: Vec<SocketAddr> = found.filter(|address| self.policy.admits(address.ip())).collect();
        let (v4, v6): (Vec<_>, Vec<_>) = admitted.into_iter().partition(is_v4);
        let random = usize::try_from(random()? >> 8).unwrap_or_default();
        let one = |of: Vec<SocketAddr>| of.get(random.checked_rem(of.len())?).copied();
        Ok([one(v4), one(v6)])
    }

    async fn announce_to(
        &self,
        tracker: &TrackerUrl,
        request: &AnnounceRequest,
        address: SocketAddr,
    ) -> Result<AnnounceReply, AnnounceError> {
        if tracker.is_udp() {
            self.announce_by_udp(tracker, request, address).await
        } else {
            let [v4, v6] = &self.http;
            announce_by_http(if is_v4(&address) { v4 } else { v6 }, tracker, request).await
        }
    }

    async fn announce_by_udp(
        &self,
        tracker: &TrackerUrl,
        request: &AnnounceRequest,
        address: SocketAddr,
    ) -> Result<AnnounceReply, AnnounceError> {
        let is_v6 = !is_v4(&address);
        let [v4, v6] = self.local;
        let here = if is_v6 { v6 } else { v4 };
        let socket = UdpSocket::bind((here, 0)).await.map_err(|error| unreachable(&error))?;
        // The kernel lets through what comes from there and nothing else.
        let there = SocketAddr::new(address.ip().to_canonical(), address.port());
        socket.connect(there).await.map_err(|error| unreachable(&error))?;
        let odd = || AnnounceError::Reply("an answer to something else than what was asked".to_owned());
        let transaction = random()?;
        let connect = udp::connect(transaction);
        let udp::Reply::Connected(connection) = self.ask(&socket, transaction, is_v6, &connect).await? else {
            return Err(odd());
        };
        let transaction = random()?;
        let announce = udp::announce(tracker, connection, transaction, request);
        match self.ask(&socket, transaction, is_v6, &announce).await? {
            udp::Reply::Announced(reply) => Ok(reply),
            udp::Reply::Connected(_) => Err(odd()),
        }
    }

    /// Sends a datagram until there is an answer to it. Whoever calls it ends it when that takes too long.
    async fn ask(
        &self,
        socket: &UdpSocket,
        transaction: u32,
        is_v6: bool,
        packet: &[u8],
    ) -> Result<udp::Reply, AnnounceError> {
        let mut wait = self.timeouts.datagram;
        let mut buffer = vec![0; udp::PACKET_BYTES_MAX];
        loop {
            socket.send(packet).await.map_err(|error| unreachable(&error))?;
            let until = Instant::now() + wait;
            while let Ok(received) = timeout_at(until, socket.recv(&mut buffer)).await {
                let len = received.map_err(|error| unreachable(&error))?;
                let packet = buffer.get(..len).unwrap_or_default();
                if let Some(reply) = udp::Reply::decode(packet, transaction, is_v6)? {
                    return Ok(reply);
                }
            }
            wait = wait.saturating_mul(2);
        }
    }
}

async fn announce_by_http(
    client: &Client,
    tracker: &TrackerUrl,
    request: &AnnounceRequest,
) -> Result<AnnounceReply, AnnounceError> {
    let url = http::announce_url(tracker, request);
    let mut response = client.get(url).send().await.map_err(|error| broken(&error))?;
    let (status, at) = (response.status(), response.url().clone());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
        if body.len() + chunk.len() > REPLY_BYTES_MAX {
            return Err(AnnounceError::Reply("it is longer than 1 MiB".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    match http::parse_reply(&body) {
        // Some refuse with a status of their own.
        Err(refused @ AnnounceError::Refused { .. }) => Err(refused),
        reply if status == StatusCode::OK => reply,
        _ => Err(elsewhere(tracker, &at, format!("it answers {status}"))),
    }
}

/// Each announce has a connection of its own, and says so: trackers such as opentracker speak HTTP/1.1 and yet hang up after one
/// answer without a word, so that what came next on the same connection would be lost. It also says that the answer has to come as it
/// is: who says nothing of compression takes any (RFC 9110).
fn client(outgoing: &Outgoing, tls: &ClientConfig, timeouts: Timeouts, local: IpAddr) -> Result<Client, String> {
    let followed = outgoing.clone();
    let said = [(header::CONNECTION, "close"), (header::ACCEPT_ENCODING, "identity")];
    let headers = HeaderMap::from_iter(said.map(|(name, value)| (name, HeaderValue::from_static(value))));
    let builder = Client::builder()
        .user_agent(concat!("InstantMirror/", env!("CARGO_PKG_VERSION")))
        .timeout(timeouts.announce)
        .default_headers(headers)
        .pool_max_idle_per_host(0)
        .http1_only()
        .redirect(Policy::custom(move |attempt| redirected(&followed, attempt)))
        .local_address(local);
    let client = outgoing.apply(builder, tls).build();
    client.map_err(|error| reason_of(&error))
}

/// Follows what stays HTTP and does not become less safe, and with a certificate of ours no way to another host, which it would
/// be shown to.
fn redirected(outgoing: &Outgoing, attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let was = attempt.previous().last().map_or("http", reqwest::Url::scheme);
    let first = attempt.previous().first();
    let is_elsewhere = first.is_some_and(|first| first.host_str() != attempt.url().host_str());
    if outgoing.identity.is_some() && is_elsewhere {
        return attempt.error("a redirect to another host, to which our certificate is not shown");
    }
    let is_admitted = |address| outgoing.policy.admits(address) || outgoing.proxies.of(attempt.url()).is_some();
    if attempt.previous().len() > REDIRECTS_MAX {
        return attempt.error("too many redirects");
    }
    if !may_follow(was, attempt.url().scheme()) {
        return attempt.error("a redirect to a scheme that is not followed");
    }
    match address_of(attempt.url()) {
        Some(address) if !is_admitted(address) => attempt.error("a redirect to an address that is not admitted"),
        _ => attempt.follow(),
    }
}

fn may_follow(was: &str, scheme: &str) -> bool {
    matches!((was, scheme), (_, "https") | ("http", "http"))
}

/// What both families brought. One answer is enough.
fn merge(
    first: Result<AnnounceReply, AnnounceError>,
    other: Option<Result<AnnounceReply, AnnounceError>>,
) -> Result<AnnounceReply, AnnounceError> {
    match (first, other) {
        (Ok(mut first), Some(Ok(other))) => {
            first.interval = first.interval.max(other.interval);
            first.interval_min = first.interval_min.max(other.interval_min);
            first.complete = first.complete.max(other.complete);
            first.incomplete = first.incomplete.max(other.incomplete);
            first.warning = first.warning.or(other.warning);
            first.tracker_id = first.tracker_id.or(other.tracker_id);
            first.peers.extend(other.peers);
            first.peers.sort_by_key(|address| (!is_v4(address), *address));
            first.peers.dedup();
            first.peers.truncate(2 * REPLY_PEERS_MAX);
            Ok(first)
        }
        (Ok(reply), _) | (Err(_), Some(Ok(reply))) => Ok(reply),
        // A refusal says more than that there was no way.
        (Err(_), Some(Err(refused @ AnnounceError::Refused { .. }))) => Err(refused),
        (Err(error), _) => Err(error),
    }
}

fn random() -> Result<u32, AnnounceError> {
    getrandom::u32().map_err(|error| AnnounceError::Unreachable(format!("no random numbers: {error}")))
}

fn unreachable(error: &(dyn std::error::Error + 'static)) -> AnnounceError {
    AnnounceError::Unreachable(reason_of(error))
}

/// Without the URL, which may hold secrets.
fn broken(error: &reqwest::Error) -> AnnounceError {
    if error.is_timeout() {
        return AnnounceError::Unreachable("no answer in time".to_owned());
    }
    unreachable(error)
}

/// A failure at the place that a tracker has sent us on to, if it has.
fn elsewhere(tracker: &TrackerUrl, at: &reqwest::Url, reason: String) -> AnnounceError {
    let is_sent_on = at.origin() != tracker.url().origin();
    let place = SecretUrl::from(at.as_str());
    AnnounceError::Unreachable(if is_sent_on {
        format!("{reason} (sent on to {place})")
    } else {
        reason
    })
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
