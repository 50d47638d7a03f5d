//! Connections to one master, by what they are for.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use instantmirror_core::address::AddressPolicy;
use reqwest::dns::{Addrs, Name as ResolvedName, Resolve, Resolving};
use reqwest::{Client, Url};
use rustls::ClientConfig;

use super::tls::reason_of;
use super::{CONNECT_TIMEOUT, Outgoing};

/// Idle connections are kept for longer than a head request is held, so that one is always open, and given up before
/// masters and proxies do it (75 s by default in ours and in nginx): a request that meets their farewell is lost.
const IDLE: Duration = Duration::from_secs(70);

/// Idle connections that are kept for requests that come now and then. Hundreds of repositories that ask at the same time
/// use as many connections as they need (over HTTP/1.1), and leave no more than this behind.
const COMMON_IDLE_MAX: usize = 1;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Heads, catalogs, lists.
    Common,
    /// Objects that somebody waits for, with connections of its own: one is free, whatever else is asked for.
    Urgent,
    /// Objects that nobody waits for, with connections of its own, which live where what uses them runs: on threads that
    /// yield, if there are such.
    Background,
    /// How long an answer takes, asked beside all others.
    Watching,
}

/// Connections of all lanes, made when they are first used.
#[derive(Debug, Default)]
pub(super) struct Connections {
    outgoing: Outgoing,
    clients: OnceLock<Result<Clients, String>>,
    /// Without our certificate, if we have one: for hosts that are not to know who we are.
    anonymous: OnceLock<Result<Clients, String>>,
}

/// A client for each lane.
pub(super) struct Clients([Client; 4]);

impl Clients {
    fn new(outgoing: &Outgoing) -> Result<Self, String> {
        let tls = outgoing.tls()?;
        let [one, any] = [COMMON_IDLE_MAX, usize::MAX];
        let client = |idle_max| client(outgoing, &tls, idle_max);
        Ok(Self([client(one)?, client(any)?, client(any)?, client(one)?]))
    }

    pub(super) fn of(&self, lane: Lane) -> &Client {
        &self.0[match lane {
            Lane::Common => 0,
            Lane::Urgent => 1,
            Lane::Background => 2,
            Lane::Watching => 3,
        }]
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clients")
    }
}

impl Connections {
    pub(super) fn new(outgoing: &Outgoing) -> Self {
        Self {
            outgoing: outgoing.clone(),
            ..Self::default()
        }
    }

    /// Those that show our certificate, or those that do not.
    pub(super) fn clients(&self, may_be_told: bool) -> Result<&Clients, String> {
        let made = if may_be_told || self.outgoing.identity.is_none() {
            self.clients.get_or_init(|| Clients::new(&self.outgoing))
        } else {
            self.anonymous
                .get_or_init(|| Clients::new(&self.outgoing.without_identity()))
        };
        made.as_ref().map_err(Clone::clone)
    }

    /// The proxy by which this is asked.
    pub(super) fn proxy(&self, url: &Url) -> Option<&Url> {
        self.outgoing.proxies.of(url)
    }

    /// Whether this is an address, and one that is not admitted. Names are looked at when they are resolved, and what is
    /// asked by a proxy is the proxy's affair.
    pub(super) fn refuses(&self, url: &Url) -> bool {
        let Outgoing { policy, proxies, .. } = &self.outgoing;
        address_of(url).is_some_and(|address| !policy.admits(address)) && proxies.of(url).is_none()
    }
}

pub(crate) fn address_of(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

fn client(outgoing: &Outgoing, tls: &ClientConfig, idle_max: usize) -> Result<Client, String> {
    let builder = Client::builder()
        .user_agent(concat!("InstantMirror/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(idle_max)
        .tcp_nodelay(true)
        // We follow them ourselves: a POST stays one.
        .redirect(reqwest::redirect::Policy::none());
    let client = outgoing.apply(builder, tls).build();
    client.map_err(|error| reason_of(&error))
}

/// The system's resolver, without the addresses that are not admitted, preferred ones first.
#[derive(Debug)]
pub(crate) struct PolicyResolver {
    pub(crate) policy: AddressPolicy,
    /// Hosts of proxies. They are where they are, whether they are named or given by an address.
    pub(crate) proxies: Vec<String>,
}

impl Resolve for PolicyResolver {
    fn resolve(&self, name: ResolvedName) -> Resolving {
        let is_proxy = self
            .proxies
            .iter()
            .any(|proxy| proxy.eq_ignore_ascii_case(name.as_str()));
        let policy = if is_proxy {
            AddressPolicy::default()
        } else {
            self.policy.clone()
        };
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let all: Vec<SocketAddr> = found.collect();
            let mut admitted: Vec<SocketAddr> = all.iter().copied().filter(|one| policy.admits(one.ip())).collect();
            if admitted.is_empty() && !all.is_empty() {
                let reason = format!(
                    "the configuration admits none of the {} addresses of {}",
                    all.len(),
                    name.as_str()
                );
                return Err(reason.into());
            }
            // Stable: the system's order stays among equals.
            admitted.sort_by_key(|one| policy.rank(one.ip()));
            Ok(Box::new(admitted.into_iter()) as Addrs)
        })
    }
}
