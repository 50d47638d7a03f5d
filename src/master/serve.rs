//! `imserver serve`: the API and the published trees over HTTP, new heads as soon as they are there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use instantmirror_core::appearance::staged;
use instantmirror_core::traits::Catalogs as _;
use instantmirror_core::{RepoName, SnapshotId, Timestamp};
use instantmirror_http::{Api, Mounts, RouteTable, Routes, Service};
use notify::{RecursiveMode, Watcher as _};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::gate::MasterGate;
use super::publish::HEAD_RENEWAL;
use super::reload::MasterReloader;
use super::routes::{MasterControl, control_routes};
use super::swarm::{Seeding, seed};
use super::torrents::offer_torrents;
use super::{CleanUpOptions, Master, MasterError, MasterPublication};
use crate::background::Background;
use crate::config::ServerConfig;
use crate::peering::SwarmsStatus;
use crate::serve::{Frontend, HttpStatus, OpenError, Sockets, StatusPage, mounts};
use crate::torrent::torrent_routes;

/// Heads are looked at this often where the file system sends no events.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// The rules of staged snapshots are looked at this often.
const RELEASE_INTERVAL: Duration = Duration::from_millis(500);

/// A master at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MasterStatus {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Its repositories, in order of name.
    pub repositories: Vec<RepositoryStatus>,
    /// What its HTTP server has answered since the start.
    pub http: HttpStatus,
    /// Its swarms, if it has any.
    #[serde(default)]
    pub peers: Option<SwarmsStatus>,
}

/// One repository of a master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryStatus {
    /// Its name.
    pub name: String,
    /// Sequence number of its head.
    pub sequence: Option<u64>,
    /// When that was signed.
    pub head_issued: Option<Timestamp>,
    /// When it expires.
    pub head_expires: Option<Timestamp>,
    /// The snapshot that `current` shows.
    pub current: Option<SnapshotId>,
    /// Files in it.
    pub files: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Live snapshots.
    pub snapshots: usize,
}

/// A master with its sockets open.
#[derive(Debug)]
pub struct MasterServer {
    master: Master,
    publication: Arc<MasterPublication>,
    sockets: Sockets,
    frontend: Frontend,
    control: RouteTable<MasterControl>,
    gate: Arc<MasterGate>,
    seeding: Option<Arc<Seeding>>,
    /// Changes when there may be new heads.
    news: watch::Receiver<u64>,
    /// Where what nobody waits for is answered.
    background: Background,
    /// Tells of heads that other processes store.
    _watcher: Option<notify::RecommendedWatcher>,
}

impl MasterServer {
    /// Opens the sockets and takes up what the store holds. Nothing is answered before [`run`](Self::run).
    ///
    /// # Errors
    /// [`MasterError::Http`] for an address in use, [`MasterError::Watch`].
    pub async fn bind(master: Master) -> Result<Self, MasterError> {
        Self::bind_with_routes(master, Routes::new()).await
    }

    /// The same with routes of the embedder's beside those of the master, for the public. They stay through every reload.
    ///
    /// # Errors
    /// As [`bind`](Self::bind), and [`OpenError::Routes`] if routes contradict each other.
    pub async fn bind_with_routes(master: Master, routes: Routes) -> Result<Self, MasterError> {
        // It would write later: heads, clean-ups, its socket.
        master.notes().check_owner()?;
        let publication = Arc::new(MasterPublication::new(master.clone()).await);
        let routes = torrent_routes().with_state(publication.offers()).merge(routes);
        let routes = routes.build().map_err(OpenError::from)?;
        let control = control_routes().build().map_err(OpenError::from)?;
        let config = master.config();
        let background = Background::start().map_err(MasterError::Threads)?;
        let sockets = Sockets::open(
            &config.http,
            master.control_socket.as_deref(),
            Some(background.handle()),
        )
        .await?;
        let gate = Arc::new(MasterGate::new(master.clone(), Arc::clone(&publication)));
        let (told, objects, keeper) = (Arc::clone(&publication), master.readable_objects(), Arc::clone(&gate));
        let api = move || Api::new(told.clone(), objects.clone()).with_gatekeeper(keeper.clone());
        let shown = Arc::clone(&publication);
        let make = move || {
            let trees = Service::new(shown.clone()).with_annotations(shown.clone());
            trees.with_api(api()).with_routes(routes.clone())
        };
        let frontend = sockets.frontend(&config.http, mounts_of(config), make);
        let seeding = Seeding::open(&master).await?;
        if let Some(seeding) = &seeding {
            publication.set_seeding(Arc::clone(seeding));
        }
        let news = master.told.subscribe();
        let watcher = watch_heads(&master)?;
        Ok(Self {
            master,
            publication,
            sockets,
            frontend,
            control,
            gate,
            seeding,
            news,
            background,
            _watcher: watcher,
        })
    }

    /// The addresses it listens on.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.addresses()
    }

    /// The same as URLs.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.sockets.urls()
    }

    /// What can be changed while it runs.
    #[must_use]
    pub fn frontend(&self) -> Frontend {
        self.frontend.clone()
    }

    /// What takes up a changed configuration while it runs.
    #[must_use]
    pub fn reloader(&self) -> MasterReloader {
        let config = self.master.config().clone();
        MasterReloader::new(config, self.frontend.clone(), self.seeding.clone())
    }

    /// Serves until `shutdown` is ready, then finishes what runs.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self {
            master,
            publication,
            sockets,
            frontend,
            control,
            gate,
            seeding,
            news,
            background: _background,
            _watcher,
        } = self;
        let (shown, answers, told) = (Arc::clone(&publication), frontend.clone(), seeding.clone());
        let control = control.with_state(MasterControl {
            master: master.clone(),
            status: StatusPage::new(move || serde_json::to_vec(&status(&shown, answers.status(), told.as_ref()))),
            gate: Arc::clone(&gate),
        });
        let local = Service::new(publication.clone())
            .with_annotations(publication.clone())
            .with_routes(control);
        let releases = release_due(&master, &publication, &gate);
        let torrents = offer_torrents(&master, &publication);
        let news = refresh(&publication, news);
        let peers = seed(&master, &publication, seeding.as_ref());
        let background = futures_util::future::join5(news, maintain(&master), releases, torrents, peers);
        sockets.serve(&frontend, local, background, shutdown).await;
        if let Some(seeding) = seeding {
            seeding.peering.shut_down().await;
        }
    }
}

pub(super) fn mounts_of(config: &ServerConfig) -> Mounts {
    let all = config.repositories.iter();
    mounts(all.flat_map(|one| one.mounts.iter().map(|mount| (&one.name, mount))))
}

fn watch_heads(master: &Master) -> Result<Option<notify::RecommendedWatcher>, MasterError> {
    let Some(path) = master.parts.catalogs.heads_dir() else {
        return Ok(None);
    };
    let told = Arc::clone(&master.told);
    let failed = |error: notify::Error| MasterError::Watch {
        path: path.clone(),
        reason: error.to_string(),
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a head is an event too: one that must not cause the next reading.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            told.send_modify(|turn| *turn += 1);
        }
    })
    .map_err(failed)?;
    watcher.watch(&path, RecursiveMode::NonRecursive).map_err(failed)?;
    Ok(Some(watcher))
}

/// Takes up new heads for ever.
async fn refresh(publication: &MasterPublication, mut news: watch::Receiver<u64>) {
    let mut complained = String::new();
    loop {
        // A time-out is a look of its own: not every file system tells.
        let _ = tokio::time::timeout(REFRESH_INTERVAL, news.changed()).await;
        let trouble = publication.refresh().await.err().map(|error| error.to_string());
        let trouble = trouble.unwrap_or_default();
        if !trouble.is_empty() && trouble != complained {
            tracing::error!("a new head cannot be taken up: {trouble}; what was shown before stays");
        }
        complained = trouble;
    }
}

/// Keeps heads from coming near their expiry, and deletes what has expired, for ever.
async fn maintain(master: &Master) {
    loop {
        let owner = master.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || maintain_once(&owner)).await {
            tracing::error!("the hourly work broke off: {error}");
        }
        tokio::time::sleep(HEAD_RENEWAL / 24).await;
    }
}

fn maintain_once(master: &Master) {
    if let Err(error) = master.renew_heads() {
        tracing::warn!("heads are not renewed now: {error}; it is tried again");
    }
    for repository in &master.config().repositories {
        master.retain(&repository.name);
    }
    master.clean_up_or_warn();
}

impl Master {
    /// What every publish ends with: lets go what no rule keeps, and deletes what has expired. What fails is logged, and
    /// tried again by the next one.
    pub(super) fn after_publish(&self, name: &RepoName) {
        self.retain(name);
        self.clean_up_or_warn();
    }

    fn retain(&self, name: &RepoName) {
        match self.apply_retention(name) {
            Ok(_) | Err(MasterError::NeverPublished { .. }) => {}
            Err(error) => {
                tracing::warn!(repository = %name, "retention is not applied now: {error}; it is tried again");
            }
        }
    }

    fn clean_up_or_warn(&self) {
        if let Err(error) = self.clean_up(CleanUpOptions::default()) {
            tracing::warn!("expired snapshots are not deleted now: {error}; it is tried again");
        }
    }
}

/// Releases staged snapshots when their time has come, for ever.
async fn release_due(master: &Master, publication: &MasterPublication, gate: &Arc<MasterGate>) {
    let mut complained = String::new();
    loop {
        tokio::time::sleep(RELEASE_INTERVAL).await;
        let mut trouble = String::new();
        for name in publication.repositories() {
            let head = publication.state(&name).and_then(|state| state.head.clone());
            let Some(head) = head.filter(|head| staged(head.head()).next().is_some()) else {
                continue;
            };
            let (master, gate) = (master.clone(), Arc::clone(gate));
            let released = tokio::task::spawn_blocking(move || {
                let share = |snapshot: &SnapshotId| gate.share(&name, *snapshot);
                master.release_due(&name, head.head(), share)
            });
            match released.await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => trouble += &format!(" {error};"),
                Err(error) => trouble += &format!(" {error};"),
            }
        }
        if !trouble.is_empty() && trouble != complained {
            tracing::warn!("a staged snapshot is not released now:{trouble} it is tried again");
        }
        complained = trouble;
    }
}

fn status(publication: &MasterPublication, http: HttpStatus, seeding: Option<&Arc<Seeding>>) -> MasterStatus {
    let states = publication
        .repositories()
        .into_iter()
        .filter_map(|name| publication.state(&name));
    let repositories = states.map(|state| {
        let head = state.head.as_ref().map(|head| head.head());
        let current = state.current.as_ref().and_then(|id| state.snapshots.get(id));
        RepositoryStatus {
            name: state.name.to_string(),
            sequence: head.map(|head| head.sequence),
            head_issued: head.map(|head| head.issued),
            head_expires: head.map(|head| head.expires),
            current: state.current,
            files: current.map_or(0, |snapshot| snapshot.root.files),
            bytes: current.map_or(0, |snapshot| snapshot.root.bytes),
            snapshots: state.snapshots.len(),
        }
    });
    let version = env!("CARGO_PKG_VERSION").to_owned();
    MasterStatus {
        version,
        pid: std::process::id(),
        repositories: repositories.collect(),
        http,
        peers: seeding.map(|seeding| seeding.status()),
    }
}
