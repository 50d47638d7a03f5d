//! Which keys of a master are believed: those of the configuration, until the master's key lists say otherwise.
//!
//! Invariant: what is believed was verified from the configured keys on, and lies on the disk before it is believed.

use std::sync::PoisonError;

use bytes::Bytes;
use instantmirror_core::traits::{SnapshotStore, StoreError, Upstream};
use instantmirror_core::{HeadError, KeyChain, PublicKey, RepoName, SignError, SignedHead, Timestamp};

use super::{FollowError, Follower};

/// The keys of a repository.
#[derive(Debug)]
pub(super) struct Trust {
    pinned: Vec<PublicKey>,
    chain: KeyChain,
}

/// A key whose signature is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedKey {
    /// The key.
    pub key: PublicKey,
    /// When the master took it into use; `None` for one of the configuration.
    pub since: Option<Timestamp>,
}

impl Trust {
    pub(super) fn open(
        store: &dyn SnapshotStore,
        repository: &RepoName,
        pinned: Vec<PublicKey>,
    ) -> Result<Self, StoreError> {
        let chain = match store.keys(repository) {
            Ok(None) => Ok(KeyChain::default()),
            Ok(Some(bytes)) => KeyChain::read(&bytes, &pinned).map_err(|error| error.to_string()),
            Err(StoreError::Damaged(text)) => Err(text),
            Err(error) => return Err(error),
        };
        let chain = chain.unwrap_or_else(|error| {
            // So does whoever changes the keys of the configuration, after the master's were lost.
            tracing::error!(%repository, "the stored key lists do not count, only the keys of the configuration do: {error}");
            KeyChain::default()
        });
        Ok(Self { pinned, chain })
    }

    pub(super) fn ever_trusted(&self) -> Vec<PublicKey> {
        self.chain.ever_trusted(&self.pinned)
    }
}

impl Follower {
    fn with_trust<T>(&self, read: impl FnOnce(&mut Trust) -> T) -> T {
        read(&mut self.trust.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The keys whose signatures are believed now.
    #[must_use]
    pub fn trusted_keys(&self) -> Vec<TrustedKey> {
        self.with_trust(|trust| match trust.chain.newest() {
            Some(list) => {
                let listed = list.keys.iter();
                let trusted = listed.map(|listed| TrustedKey {
                    key: listed.key,
                    since: Some(listed.since),
                });
                trusted.collect()
            }
            None => {
                let pinned = trust.pinned.iter();
                pinned.map(|key| TrustedKey { key: *key, since: None }).collect()
            }
        })
    }

    /// The version of the newest key list of the master; 0 if it never changed its key.
    #[must_use]
    pub fn key_list_version(&self) -> u64 {
        self.with_trust(|trust| trust.chain.version())
    }

    /// The key lists, to be passed on; `None` if there are none.
    #[must_use]
    pub fn key_lists(&self) -> Option<Bytes> {
        self.with_trust(|trust| (trust.chain.version() > 0).then(|| trust.chain.encode()))
    }

    fn trusted(&self) -> Vec<PublicKey> {
        self.with_trust(|trust| trust.chain.trusted(&trust.pinned))
    }

    /// Whether a key that is trusted now has signed it.
    pub(super) fn is_trusted(&self, head: &SignedHead) -> bool {
        SignedHead::verify(head.bytes().clone(), &self.repository, &self.trusted()).is_ok()
    }

    /// Verifies a head; asks for newer key lists if it says that there are some, or is signed by nobody who is known.
    pub(super) async fn verify(&self, bytes: Bytes, upstream: &dyn Upstream) -> Result<SignedHead, FollowError> {
        let verify = || SignedHead::verify(bytes.clone(), &self.repository, &self.trusted());
        let verified = verify();
        let is_news = match &verified {
            Ok(head) => head.head().key_list > self.key_list_version(),
            Err(HeadError::Signature { source, .. }) => matches!(source, SignError::Untrusted(_)),
            Err(_) => false,
        };
        if !is_news {
            return Ok(verified?);
        }
        match self.learn(upstream).await {
            Ok(true) => Ok(verify()?),
            Ok(false) => Ok(verified?),
            Err(error @ FollowError::Transport(_)) => {
                // A head that cannot be believed is refused for that; one that can is not held up.
                let head = verified?;
                tracing::warn!(repository = %self.repository, "the master's key has changed, and the new one cannot be had now: {error}");
                Ok(head)
            }
            Err(error) if verified.is_ok() => Err(error),
            Err(error) => {
                tracing::warn!(repository = %self.repository, master = upstream.label(), "REFUSED: {error}");
                Ok(verified?)
            }
        }
    }

    /// Asks for the master's key lists. Returns whether there were new ones.
    async fn learn(&self, upstream: &dyn Upstream) -> Result<bool, FollowError> {
        let offered = upstream.keys(&self.repository).await?;
        let (before, after) = self.with_trust(|trust| {
            let after = trust.chain.follow(&offered, &trust.pinned);
            (trust.chain.version(), after)
        });
        let after = after?;
        if after.version() == before {
            return Ok(false);
        }
        let (repository, lists) = (self.repository.clone(), after.encode());
        self.write(move |store| store.put_keys(&repository, lists)).await?;
        tracing::info!(repository = %self.repository, version = after.version(), "the master has changed its keys");
        self.with_trust(|trust| trust.chain = after);
        Ok(true)
    }
}
