//! What the daemons have in common when they serve: sockets, mounts, the status page of the control socket.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use instantmirror_core::RepoName;
use instantmirror_http::{
    AccessLog, AccessLogError, Admission, AdmissionStats, Limits, Mounts, OwnFiles, RouteError, RouteList, ServeError,
    Server, Service, Stats, Tls, published_trees,
};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::config::surroundings::exposed_key;
use crate::config::{ByteSize, ConfigError, HttpConfig, MountConfig, TlsConfig};
use crate::reload::Reloaded;
use crate::tls::{self, TlsError};

/// Path of the status page on the control socket.
pub(crate) const STATUS_PATH: &str = "/.im/status";
/// What it is for.
pub(crate) const STATUS_PURPOSE: &str = "Says how the daemon is, as JSON";

/// Reads a configuration, whenever a daemon is told to reload.
pub(crate) struct Load<C>(Arc<dyn Fn() -> Result<C, ConfigError> + Send + Sync>);

impl<C> Load<C> {
    pub(crate) fn new(load: impl Fn() -> Result<C, ConfigError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(load))
    }

    pub(crate) fn load(&self) -> Result<C, ConfigError> {
        (self.0)()
    }
}

impl<C> Clone for Load<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> fmt::Debug for Load<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Load")
    }
}

/// The open sockets of a daemon, and the files that serving needs.
#[derive(Debug)]
pub(crate) struct Sockets {
    http: Server,
    control: Server,
    files: Files,
}

/// What may have to be read or opened again while serving.
#[derive(Debug, Clone)]
struct Files {
    tls: Option<Arc<Tls>>,
    access_log: Option<Arc<AccessLog>>,
}

impl Sockets {
    /// Opens the public sockets and, where there is to be one, the control socket.
    pub(crate) async fn open(
        config: &HttpConfig,
        socket: Option<&Path>,
        background: Option<&Handle>,
    ) -> Result<Self, OpenError> {
        let mut http = Server::new(config.limits()).leaving_ipv4_to(config.ipv4_wildcards());
        if let Some(runtime) = background {
            http = http.with_background(runtime.clone());
        }
        for address in &config.listen {
            http.listen(*address).await?;
        }
        for address in &config.listen_proxy {
            http.listen_proxied(*address, None).await?;
        }
        let mut encrypted = None;
        if let Some(config) = &config.tls {
            let loaded = tls::load(config)?;
            if let Some(warning) = exposed_key(&config.key) {
                tracing::warn!("{warning}");
            }
            for address in &config.listen {
                http.listen_tls(*address, Arc::clone(&loaded)).await?;
            }
            for address in &config.listen_proxy {
                http.listen_proxied(*address, Some(Arc::clone(&loaded))).await?;
            }
            encrypted = Some(loaded);
        }
        let format = config.access_log_format.format();
        let open = |path| AccessLog::open(path, format);
        let access_log = config.access_log.as_deref().map(open).transpose()?;
        let mut control = Server::new(Limits::default());
        if let Some(socket) = socket {
            control.listen_unix(socket).await?;
        }
        let files = Files {
            tls: encrypted,
            access_log,
        };
        Ok(Self { http, control, files })
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.http.addresses()
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.http.urls()
    }

    /// The public side of it: `make` makes the service that is shown at some mounts.
    pub(crate) fn frontend(
        &self,
        config: &HttpConfig,
        mounts: Mounts,
        make: impl Fn() -> Service + Send + Sync + 'static,
    ) -> Frontend {
        let make = {
            let log = self.files.access_log.clone();
            move |config: &HttpConfig, mounts| {
                let mut service = make()
                    .with_mounts(mounts)
                    .with_proxies(config.proxies())
                    .with_long_polls_max(config.long_polls_max());
                // The configuration was checked by the same rules.
                match config.header_rules() {
                    Ok(rules) => service = service.with_header_rules(rules),
                    Err(error) => tracing::error!("no rules about header fields: {error}"),
                }
                if let Some(root) = &config.root {
                    service = service.with_own_files(OwnFiles::new(root));
                }
                match log.clone() {
                    Some(log) => service.with_access_log(log),
                    None => service,
                }
            }
        };
        Frontend(Arc::new(Shown {
            services: watch::Sender::new(Arc::new(make(config, mounts))),
            make: Box::new(make),
            files: self.files.clone(),
            admission: self.http.admission(),
            config: config.clone(),
            held: Mutex::new(config.clone()),
        }))
    }

    /// Serves, with `background` beside it, until `shutdown` is ready; then finishes what runs.
    pub(crate) async fn serve(
        self,
        public: &Frontend,
        local: Service,
        background: impl Future,
        shutdown: impl Future<Output = ()>,
    ) {
        let (stop, stopped) = watch::channel(false);
        let until_stopped = || {
            let mut stopped = stopped.clone();
            async move {
                // An error means that the sender is gone: stopped as well.
                let _ = stopped.wait_for(|stopped| *stopped).await;
            }
        };
        let public = self.http.serve_newest(public.0.services.subscribe(), until_stopped());
        let local = self.control.serve(Arc::new(local), until_stopped());
        let stopping = async {
            shutdown.await;
            stop.send_replace(true);
        };
        tokio::select! {
            _ = futures_util::future::join3(public, local, stopping) => {}
            _ = background => tracing::error!("the background work ended, so the daemon does"),
        }
    }
}

/// Why a daemon cannot begin to serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A socket.
    #[error(transparent)]
    Socket(#[from] ServeError),
    /// Certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The access log.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// The routes contradict each other.
    #[error(transparent)]
    Routes(#[from] RouteError),
}

/// What a daemon shows to the public, in the parts that can change while it runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Frontend(Arc<Shown>);

/// Makes the service that is shown with a configuration.
type MakeService = Box<dyn Fn(&HttpConfig, Mounts) -> Service + Send + Sync>;

struct Shown {
    services: watch::Sender<Arc<Service>>,
    make: MakeService,
    files: Files,
    admission: Admission,
    /// What the sockets were opened with.
    config: HttpConfig,
    /// What holds now.
    held: Mutex<HttpConfig>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl Frontend {
    /// What was answered since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.services.borrow().stats()
    }

    /// All that is answered to the public now, routes of the embedder's included.
    #[must_use]
    pub fn routes(&self) -> RouteList {
        self.0.services.borrow().routes()
    }

    /// What was answered, and how many connections there are, for a status page.
    #[must_use]
    pub fn status(&self) -> HttpStatus {
        HttpStatus::new(&self.stats(), &self.0.admission.stats())
    }

    /// Opens the access log anew, after a rotation. What goes wrong is logged, and the old file kept.
    pub fn reopen_access_log(&self) {
        match self.0.files.access_log.as_ref().map(|log| log.reopen()) {
            None => {}
            Some(Ok(())) => tracing::info!("the access log was opened anew"),
            Some(Err(error)) => tracing::error!("{error}; the old one stays in use"),
        }
    }

    /// Shows these mounts and lets these limits hold from now on, and reads the certificate again. No connection is closed and no request
    /// lost. Returns what of `[http]` has changed and holds, and what cannot while serving; what goes wrong is logged.
    pub(crate) fn reload(&self, config: &HttpConfig, mounts: Mounts) -> Reloaded {
        let started = &self.0.config;
        let fixed = [
            ("[http] listen", started.listen == config.listen),
            ("[http] access_log", started.access_log == config.access_log),
            (
                "[http] access_log_format",
                started.access_log_format == config.access_log_format,
            ),
            ("[http] listen_proxy", started.listen_proxy == config.listen_proxy),
            (
                "[http.tls]",
                started.tls.as_ref().map(fixed_of) == config.tls.as_ref().map(fixed_of),
            ),
            (
                "[http.limits], beside the limits per address,",
                started.limits.is_fixed_as(&config.limits),
            ),
        ];
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        let hsts = |config: &HttpConfig| config.tls.as_ref().and_then(|tls| tls.hsts);
        let free = [
            ("[http] root", held.root == config.root),
            ("[http] cors", held.cors == config.cors),
            ("[http] headers", held.headers == config.headers),
            ("[[http.rule]]", held.rules == config.rules),
            ("[http.tls] hsts", hsts(&held) == hsts(config)),
            (
                "[http] trusted_proxies",
                held.trusted_proxies == config.trusted_proxies && held.proxy_header == config.proxy_header,
            ),
            ("[http] max_connections", held.max_connections == config.max_connections),
            (
                "[http.limits] per address",
                held.limits.addresses() == config.limits.addresses(),
            ),
        ];
        held.clone_from(config);
        drop(held);
        let names = |all: &[(&str, bool)]| -> Vec<String> {
            let others = all.iter().filter(|(_, same)| !same);
            others.map(|(name, _)| (*name).to_owned()).collect()
        };
        let reloaded = Reloaded {
            changed: names(&free),
            refused: names(&fixed),
        };
        self.0
            .admission
            .set_limits(config.max_connections, &config.limits.addresses());
        self.reopen_access_log();
        match self.0.files.tls.as_ref().map(|tls| tls::reload(tls)) {
            None => {}
            Some(Ok(())) => tracing::info!("the certificate was read again"),
            Some(Err(error)) => tracing::error!("{error}; the old certificate stays in use"),
        }
        let next = (self.0.make)(config, mounts).continuing(&self.0.services.borrow());
        self.0.services.send_replace(Arc::new(next));
        reloaded
    }
}

/// What of `[http.tls]` cannot change while serving.
fn fixed_of(tls: &TlsConfig) -> (&[SocketAddr], &[SocketAddr], &Path, &Path) {
    (&tls.listen, &tls.listen_proxy, &tls.certificate, &tls.key)
}

/// What an HTTP server has answered since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpStatus {
    /// Answers by status.
    pub answers: BTreeMap<u16, u64>,
    /// How many of them were kept ready.
    pub answers_hot: u64,
    /// Bytes of bodies.
    pub body_bytes: u64,
    /// How many of these the kernel sent from files by itself.
    pub sendfile_bytes: u64,
    /// Bodies that broke off.
    pub bodies_broken: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// Connections so far.
    pub connections_accepted: u64,
    /// Times that a connection could not be accepted, for want of descriptors or memory.
    #[serde(default)]
    pub accept_errors: u64,
    /// Connections cut because the client was too slow.
    pub connections_timed_out: u64,
    /// Streams of HTTP/2 reset because the client was too slow.
    pub streams_timed_out: u64,
    /// Requests that were none.
    pub requests_malformed: u64,
    /// Most connections at a time.
    #[serde(default)]
    pub connections_max: usize,
    /// Connections that wait for their clients: those that go first when there is no room.
    #[serde(default)]
    pub connections_idle: usize,
    /// Readers that wait for a connection that they may use.
    #[serde(default)]
    pub connections_queued: usize,
    /// Mirrors that wait for news.
    #[serde(default)]
    pub polls_waiting: u64,
    /// Mirrors that were answered before their time, because others came.
    #[serde(default)]
    pub polls_shortened: u64,
    /// Mirrors that were told to come later.
    #[serde(default)]
    pub polls_refused: u64,
    /// Idle connections that were closed to make room.
    #[serde(default)]
    pub connections_closed_idle: u64,
    /// Connections that were refused because their address had as many as it may have.
    #[serde(default)]
    pub connections_refused_by_address: u64,
    /// Readers that were answered with 503 because all connections were in use.
    #[serde(default)]
    pub readers_turned_away: u64,
    /// Requests that were answered with 429 because their address asks too often.
    #[serde(default)]
    pub requests_limited: u64,
}

impl HttpStatus {
    pub(crate) fn new(stats: &Stats, admission: &AdmissionStats) -> Self {
        Self {
            answers: stats.by_status.clone(),
            answers_hot: stats.answers_hot,
            body_bytes: stats.body_bytes,
            sendfile_bytes: stats.sendfile_bytes,
            bodies_broken: stats.bodies_broken,
            connections_open: stats.connections_open,
            connections_accepted: stats.connections_accepted,
            accept_errors: stats.accept_errors,
            connections_timed_out: stats.connections_timed_out,
            streams_timed_out: stats.streams_timed_out,
            requests_malformed: stats.requests_malformed,
            connections_max: admission.connections_max,
            connections_idle: admission.idle,
            connections_queued: admission.queued,
            polls_waiting: stats.polls_waiting,
            polls_shortened: stats.polls_shortened,
            polls_refused: stats.polls_refused,
            connections_closed_idle: admission.closed_idle,
            connections_refused_by_address: admission.refused_by_address,
            readers_turned_away: admission.turned_away,
            requests_limited: admission.requests_limited,
        }
    }
}

/// For people: two lines, and one more if limits were reached.
impl fmt::Display for HttpStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> = self
            .answers
            .iter()
            .map(|(status, n)| format!("{status}: {n}"))
            .collect();
        let counts = if counts.is_empty() {
            "none".to_owned()
        } else {
            counts.join(", ")
        };
        writeln!(
            f,
            "http: {} of at most {} connections open, {} of them idle, {} long polls; {} so far; {} sent; {} slow clients cut, \
             {} answers broken off",
            self.connections_open,
            self.connections_max,
            self.connections_idle,
            self.polls_waiting,
            self.connections_accepted,
            ByteSize(self.body_bytes),
            self.connections_timed_out + self.streams_timed_out,
            self.bodies_broken
        )?;
        self.write_limits(f)?;
        writeln!(f, "answers: {counts} ({} of them kept ready)", self.answers_hot)
    }
}

impl HttpStatus {
    /// What the limits did, if they did anything.
    fn write_limits(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = [
            (self.connections_queued as u64, "readers wait for a place"),
            (self.connections_closed_idle, "idle connections closed for others"),
            (self.readers_turned_away, "readers turned away"),
            (self.polls_shortened, "long polls answered early"),
            (self.polls_refused, "long polls refused"),
            (self.connections_refused_by_address, "connections refused by address"),
            (self.requests_limited, "requests refused by address"),
        ];
        let done: Vec<String> = done
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if done.is_empty() {
            return Ok(());
        }
        writeln!(f, "limits: {}", done.join(", "))
    }
}

/// The mounts of all repositories.
pub(crate) fn mounts<'a>(all: impl Iterator<Item = (&'a RepoName, &'a MountConfig)>) -> Mounts {
    let mount = |(repository, config): (&RepoName, &MountConfig)| config.mount(repository).ok();
    // The configuration was checked by the same rules; what is refused here would have been refused there.
    Mounts::new(all.filter_map(mount).collect()).unwrap_or_else(|error| {
        tracing::error!("no mounts: {error}");
        Mounts::default()
    })
}

/// Makes the answer to `GET /.im/status` on the control socket, which is JSON.
#[derive(Clone)]
pub(crate) struct StatusPage(Arc<dyn Fn() -> serde_json::Result<Vec<u8>> + Send + Sync>);

impl StatusPage {
    pub(crate) fn new(produce: impl Fn() -> serde_json::Result<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(produce))
    }

    pub(crate) fn answer(&self) -> Option<http::Response<Bytes>> {
        let json = (self.0)().unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}").into_bytes());
        let response = http::Response::builder().header(http::header::CONTENT_TYPE, "application/json");
        response.body(json.into()).ok()
    }
}

impl fmt::Debug for StatusPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusPage")
    }
}

/// What a daemon answers.
pub(crate) struct Answered<'a> {
    /// The routes of its public side.
    pub(crate) public: RouteList,
    /// Those of its control socket.
    pub(crate) control: RouteList,
    /// The repositories whose trees both show.
    pub(crate) repositories: &'a [RepoName],
    pub(crate) mounts: &'a Mounts,
    pub(crate) http: &'a HttpConfig,
}

impl Answered<'_> {
    /// All routes: the public ones first, as far as there is a socket for them.
    pub(crate) fn list(self) -> RouteList {
        let http = self.http;
        let is_public = !http.listen.is_empty() || !http.listen_proxy.is_empty() || http.tls.is_some();
        let mut list = RouteList::default();
        if is_public {
            list.extend(self.public);
            list.extend(published_trees(self.repositories, self.mounts, http.root.is_some()));
        }
        list.extend(self.control);
        list.extend(published_trees(self.repositories, &Mounts::default(), false).on_control_socket());
        list
    }
}
