//! A configuration that has changed while a master serves: what is taken up at once, and what takes a restart.

use std::sync::{Arc, Mutex, PoisonError};

use super::serve::mounts_of;
use super::swarm::Seeding;
use crate::config::{PeersConfig, ServerConfig, ServerRepository};
use crate::serve::Frontend;

/// Takes up changed configurations of a master that serves.
#[derive(Debug)]
pub struct MasterReloader {
    started: ServerConfig,
    peers: Mutex<PeersConfig>,
    frontend: Frontend,
    seeding: Option<Arc<Seeding>>,
}

impl MasterReloader {
    pub(super) fn new(started: ServerConfig, frontend: Frontend, seeding: Option<Arc<Seeding>>) -> Self {
        Self {
            peers: Mutex::new(started.peers.clone()),
            started,
            frontend,
            seeding,
        }
    }

    /// Takes up mounts, the certificate, and with whom and how much is exchanged in swarms: peers that are not admitted any
    /// more are let go. What cannot change while the master serves is logged by its name. Must be called inside a tokio runtime.
    pub fn reload(&self, config: &ServerConfig) {
        let mut reloaded = self.frontend.reload(&config.http, mounts_of(config));
        reloaded.refused.extend(self.refused(config));
        reloaded.tell();
        let Some(seeding) = &self.seeding else { return };
        let mut held = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = held.limits().policy == config.peers.limits().policy && held.has_limits_of(&config.peers);
        if !is_same {
            seeding.peering.swarms.set_limits(config.peers.limits());
            tracing::info!("[peers] has changed, and holds from now on");
        }
        held.clone_from(&config.peers);
    }

    fn refused(&self, new: &ServerConfig) -> Vec<String> {
        let held = &self.started;
        let fixed = [
            ("[store]", held.store == new.store),
            ("[retention]", held.retention == new.retention),
            ("[snapshots]", held.snapshots == new.snapshots),
            ("[nodes]", held.nodes == new.nodes),
            ("[torrents]", held.torrents == new.torrents),
            ("[control]", held.control == new.control),
            ("[log]", held.log == new.log),
        ];
        let fixed = fixed.into_iter().chain(held.peers.fixed(&new.peers));
        let refused = fixed.filter(|(_, same)| !same);
        let mut refused: Vec<String> = refused.map(|(name, _)| name.to_owned()).collect();
        for repository in &new.repositories {
            let name = &repository.name;
            match held.repositories.iter().find(|one| one.name == *name) {
                None => refused.push(format!("repository '{name}', which is new,")),
                Some(before) if but_mounts(before) != but_mounts(repository) => {
                    refused.push(format!("repository '{name}', beside its mounts,"));
                }
                Some(_) => {}
            }
        }
        let is_gone = |one: &&ServerRepository| new.repositories.iter().all(|other| other.name != one.name);
        let gone = held.repositories.iter().filter(is_gone);
        refused.extend(gone.map(|one| format!("repository '{}', which is gone,", one.name)));
        refused
    }
}

fn but_mounts(repository: &ServerRepository) -> ServerRepository {
    ServerRepository {
        mounts: Vec::new(),
        ..repository.clone()
    }
}
