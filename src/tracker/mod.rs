//! The tracker: who is in which swarm, for BitTorrent clients that ask by HTTP or UDP.

mod announce;
mod builder;
pub(crate) mod masters;
mod serve;
mod status;
mod torrents;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use instantmirror_core::address::AddressPolicy;
use instantmirror_swarm::origin::Outgoing;
use instantmirror_tracker::{ConnectionIds, RandomSample, Registry, UdpError};

use crate::config::TrackerConfig;
use crate::reload::Reloaded;

use masters::Masters;
use torrents::Torrents;

pub use announce::routes;
pub use builder::TrackerBuilder;
pub use serve::TrackerServer;
pub use status::{MasterStatus, TorrentsStatus, TrackerStatus};
pub use torrents::TorrentsError;

/// Old peers are forgotten this often, and every swarm is looked at once in so many times.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(1);
const EXPIRE_PARTS: usize = 30;

/// Masters are asked this often whether they have other torrents: before those who share them are told to announce them.
const LOOK: Duration = Duration::from_secs(2);

/// Why a tracker cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrackerError {
    /// Its builder was given settings that cannot be used.
    #[error(transparent)]
    Build(#[from] crate::BuildError),
    /// The directory of torrents.
    #[error(transparent)]
    Torrents(#[from] TorrentsError),
    /// The HTTP server.
    #[error(transparent)]
    Http(#[from] crate::serve::OpenError),
    /// A UDP socket.
    #[error(transparent)]
    Udp(#[from] UdpError),
    /// How masters are asked.
    #[error("[outgoing]: {0}")]
    Outgoing(String),
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// A tracker. Nothing is answered until it is [served](TrackerServer). Cheap to clone. Peers are kept in memory alone: after
/// a restart they come back within an interval.
#[derive(Debug, Clone)]
pub struct Tracker(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    registry: Mutex<Registry>,
    ids: Arc<ConnectionIds>,
    torrents: Mutex<Torrents>,
    /// How masters are asked: `[outgoing]` with its files and the environment.
    outgoing: Mutex<Outgoing>,
    /// How they were when they were asked last.
    masters: Mutex<Vec<MasterStatus>>,
    /// What was started with, with what was taken up since.
    config: Mutex<TrackerConfig>,
    control_socket: Option<PathBuf>,
    began: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What panicked left whole peers behind: every change is of one of them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tracker {
    /// Begins a tracker of typed values.
    pub fn builder() -> TrackerBuilder {
        TrackerBuilder::default()
    }

    /// Reads the torrents that are allowed. This is `TrackerBuilder::from(config).build()`.
    ///
    /// # Errors
    /// As [`TrackerBuilder::build`].
    pub fn open(config: TrackerConfig) -> Result<Self, TrackerError> {
        TrackerBuilder::from(config).build()
    }

    /// A tracker of settings that were checked.
    fn start(config: TrackerConfig, control_socket: Option<PathBuf>) -> Result<Self, TrackerError> {
        let outgoing = config.outgoing.load(&AddressPolicy::default());
        let mut secret = [0; 40];
        getrandom::fill(&mut secret).map_err(TrackerError::Random)?;
        let (id_secret, seed) = secret.split_first_chunk::<32>().unwrap_or((&[0; 32], &[]));
        let seed = seed.iter().fold(0, |seed, byte| seed << 8 | u64::from(*byte));
        let registry = Registry::new(config.limits.limits(), Box::new(RandomSample), seed);
        let tracker = Self(Arc::new(Parts {
            registry: Mutex::new(registry),
            ids: Arc::new(ConnectionIds::new(*id_secret)),
            torrents: Mutex::default(),
            outgoing: Mutex::new(outgoing.map_err(TrackerError::Outgoing)?),
            masters: Mutex::default(),
            config: Mutex::new(config),
            control_socket,
            began: Instant::now(),
        }));
        tracker.rescan()?;
        Ok(tracker)
    }

    /// Its configuration, with what was taken up since the start.
    #[must_use]
    pub fn config(&self) -> TrackerConfig {
        lock(&self.0.config).clone()
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.0.registry)
    }

    fn now(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// Reads the directory of torrents again, and serves what is allowed from now on.
    ///
    /// # Errors
    /// [`TorrentsError`]; what was served stays served.
    pub fn rescan(&self) -> Result<(), TorrentsError> {
        let config = self.config().torrents;
        let mut torrents = lock(&self.0.torrents);
        if torrents.scan(&config)? {
            let allowed = torrents.allowed();
            let count = allowed.len();
            self.registry().allow(allowed);
            tracing::info!(torrents = count, "the torrents that are served have changed");
        }
        Ok(())
    }

    /// Takes up what a changed configuration says: torrents, limits and how masters are asked at once (with the files that
    /// `[outgoing]` names), the rest at the next start.
    pub fn reload(&self, config: TrackerConfig) -> Reloaded {
        let mut reloaded = Reloaded::default();
        let outgoing = config.outgoing.load(&AddressPolicy::default());
        let is_outgoing_taken = outgoing.is_ok();
        let is_outgoing_same = match outgoing {
            Ok(outgoing) => {
                let mut held = lock(&self.0.outgoing);
                *held == outgoing || {
                    *held = outgoing;
                    false
                }
            }
            Err(error) => {
                tracing::error!("[outgoing]: {error}; masters are asked as before");
                true
            }
        };
        {
            let mut held = lock(&self.0.config);
            let fixed = [
                ("[udp] listen", held.udp == config.udp),
                ("[control]", held.control == config.control),
                ("[log]", held.log == config.log),
            ];
            reloaded.refused = names(&fixed);
            let taken = [
                ("[torrents]", held.torrents == config.torrents),
                ("[limits]", held.limits == config.limits),
                ("[outgoing]", is_outgoing_same),
            ];
            reloaded.changed = names(&taken);
            (held.torrents, held.limits) = (config.torrents, config.limits);
            if is_outgoing_taken {
                held.outgoing = config.outgoing;
            }
            self.registry().set_limits(held.limits.limits());
        }
        if let Err(error) = self.rescan() {
            tracing::error!("{error}; the torrents that were served stay served");
        }
        reloaded
    }

    /// Serves the swarms that masters name, besides the others.
    fn take_up(&self, masters: &Masters) {
        *lock(&self.0.masters) = masters.status();
        let mut torrents = lock(&self.0.torrents);
        if torrents.set_named(masters.swarms()) {
            let allowed = torrents.allowed();
            tracing::info!(torrents = allowed.len(), "the torrents that are served have changed");
            self.registry().allow(allowed);
        }
    }

    /// Asks masters for their swarms, for ever.
    async fn ask_masters(&self) {
        let mut masters = Masters::default();
        loop {
            let config = self.config().torrents;
            let outgoing = lock(&self.0.outgoing).clone();
            masters.ask(&config.masters, config.rescan.0, &outgoing).await;
            self.take_up(&masters);
            // Soon again while somebody has not answered yet.
            let is_known = masters.are_known(&config.masters);
            tokio::time::sleep(if is_known { LOOK } else { EXPIRE_INTERVAL }).await;
        }
    }

    /// Forgets old peers and looks for new torrents, for ever.
    async fn keep_up(&self) {
        futures_util::future::join(self.ask_masters(), self.expire_and_rescan()).await;
    }

    async fn expire_and_rescan(&self) {
        let mut scanned = Instant::now();
        loop {
            tokio::time::sleep(EXPIRE_INTERVAL).await;
            let now = self.now();
            {
                let mut registry = self.registry();
                let part = registry.torrents().div_ceil(EXPIRE_PARTS);
                registry.expire(now, part);
            }
            let config = self.config().torrents;
            if config.dir.is_some() && scanned.elapsed() >= config.rescan.0 {
                let tracker = self.clone();
                match tokio::task::spawn_blocking(move || tracker.rescan()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::error!("{error}; the torrents that were served stay served"),
                    Err(error) => tracing::error!("the torrents cannot be looked at: {error}"),
                }
                scanned = Instant::now();
            }
        }
    }
}

fn names(same: &[(&str, bool)]) -> Vec<String> {
    let differ = same.iter().filter(|(_, same)| !same);
    differ.map(|(name, _)| (*name).to_owned()).collect()
}
