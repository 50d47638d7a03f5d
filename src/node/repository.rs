//! What a builder of nodes is told of repositories: whom to believe, where heads, catalogs and content come from, and what is
//! fetched before anybody asks for it.

mod timely;

use std::any::TypeId;
use std::path::PathBuf;
use std::sync::Arc;

use instantmirror_core::rules::PathGlobs;
use instantmirror_core::traits::{PeerTransport, Swarm, Transport, Upstream};
use instantmirror_core::url::SecretUrl;
use instantmirror_core::{PublicKey, RepoName};
use instantmirror_swarm::HttpOrigin;

use crate::build_error::BuildError;
use crate::config::{MountConfig, NodeRepository, OutgoingConfig, RulesConfig};
use timely::Timely;

/// What of a repository is fetched before anybody asks for it: in the order of the methods, whatever their order in the code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrefetchRules(pub(super) RulesConfig);

impl PrefetchRules {
    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Everything, as long as the cache has room.
    #[must_use]
    pub fn everything() -> Self {
        Self::none().rest()
    }

    /// Paths that match this glob, before those of the globs after it.
    #[must_use]
    pub fn first(mut self, glob: impl Into<String>) -> Self {
        self.0.first.push(glob.into());
        self
    }

    /// Never paths that match this glob.
    #[must_use]
    pub fn never(mut self, glob: impl Into<String>) -> Self {
        self.0.never.push(glob.into());
        self
    }

    /// Then what the master advises.
    #[must_use]
    pub fn suggested(mut self) -> Self {
        self.0.suggested = true;
        self
    }

    /// Then what is new in directories that are read much.
    #[must_use]
    pub fn popular(mut self) -> Self {
        self.0.popular = true;
        self
    }

    /// Then everything else, as long as the cache has room.
    #[must_use]
    pub fn rest(mut self) -> Self {
        self.0.rest = true;
        self
    }
}

/// A repository that a node follows: whom it believes, and where heads, catalogs and content come from.
///
/// A [master](Self::master) by its URL is all of that. With parts of one's own, an [`Upstream`] says what is current, and a
/// [`PeerTransport`] or [`Swarm`] has the content; they are asked before masters.
#[derive(Debug, Clone)]
#[must_use]
pub struct Repository {
    pub(super) name: String,
    masters: Vec<SecretUrl>,
    trust: Vec<PublicKey>,
    token_file: Option<PathBuf>,
    outgoing: Option<OutgoingConfig>,
    mounts: Vec<MountConfig>,
    prefetch: Option<RulesConfig>,
    sources: Sources,
}

/// The parts of one's own that a repository has.
#[derive(Debug, Clone, Default)]
pub(super) struct Sources {
    pub(super) upstreams: Vec<Arc<dyn Upstream>>,
    pub(super) transports: Vec<Transport>,
}

impl Repository {
    /// A repository by its name at the master.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            masters: Vec::new(),
            trust: Vec::new(),
            token_file: None,
            outgoing: None,
            mounts: Vec::new(),
            prefetch: None,
            sources: Sources::default(),
        }
    }

    /// A master, `http://` or `https://`. Several are tried in turn.
    pub fn master(mut self, url: impl Into<SecretUrl>) -> Self {
        self.masters.push(url.into());
        self
    }

    /// A public key of the master; one of those that are trusted must have signed.
    pub fn trust(mut self, key: PublicKey) -> Self {
        self.trust.push(key);
        self
    }

    /// The file with the token that the master gave this node; with it the master gives out what is staged.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// How its masters are connected to, instead of what [`NodeBuilder::outgoing`](super::NodeBuilder::outgoing) says.
    pub fn outgoing(mut self, outgoing: OutgoingConfig) -> Self {
        self.outgoing = Some(outgoing);
        self
    }

    /// Shows it at one more place.
    pub fn mount(mut self, mount: MountConfig) -> Self {
        self.mounts.push(mount);
        self
    }

    /// What of it is fetched ahead, instead of what [`NodeBuilder::prefetch`](super::NodeBuilder::prefetch) says.
    pub fn prefetch(mut self, rules: PrefetchRules) -> Self {
        self.prefetch = Some(rules.0);
        self
    }

    /// A source of heads and catalogs. It gets limits, as a [transport](Self::transport) does. A question for news may wait for
    /// longer: after 75 s the source is asked for the head of now, and fails if that is not answered either.
    pub fn upstream<U: Upstream>(mut self, upstream: U) -> Self {
        self.sources.upstreams.push(match has_limits::<U>() {
            true => Arc::new(upstream),
            false => Arc::new(Timely::new(upstream, U::label)),
        });
        self
    }

    /// A source of content that is one side.
    ///
    /// It should bound its own waiting, and need not be believed to: a first answer takes 30 s at most, and so does each next
    /// part of a transfer. What comes whole, an outboard or an object of a batch, has a second more for each 64 KiB. A call that
    /// takes longer is dropped and counts as [`Unreachable`](instantmirror_core::TransportError::Unreachable), other sources are
    /// asked, and the log names this one by label and type. (An [`HttpOrigin`] has limits of its own.)
    pub fn transport<T: PeerTransport>(mut self, transport: T) -> Self {
        self.sources.transports.push(match has_limits::<T>() {
            true => Transport::origin(transport),
            false => Transport::origin(Timely::new(transport, T::label)),
        });
        self
    }

    /// A source of content that is a swarm. It gets limits, as a [transport](Self::transport) does.
    pub fn swarm<S: Swarm>(mut self, swarm: S) -> Self {
        let swarm = Transport::swarm(Timely::new(swarm, S::label));
        self.sources.transports.push(swarm);
        self
    }

    fn field(&self, method: &str) -> String {
        format!("repository '{}' {method}", self.name)
    }

    /// Checks it, and splits it into its settings and its parts.
    pub(super) fn split(self) -> Result<(NodeRepository, Sources), BuildError> {
        let parsed: Result<RepoName, _> = self.name.parse();
        let name = parsed.map_err(|error| BuildError::invalid("repository", &self.name, error))?;
        if self.trust.is_empty() {
            let advice = "name a public key of the master; `Master::public_key` and `imserver keygen` tell it";
            return Err(BuildError::missing(self.field("trust"), advice));
        }
        for url in &self.masters {
            let origin = HttpOrigin::new(url.exposed());
            origin.map_err(|error| BuildError::invalid(self.field("master"), url, error))?;
        }
        let has_none = self.masters.is_empty();
        if has_none && self.sources.upstreams.is_empty() && self.sources.transports.is_empty() {
            let advice = "say where it comes from: the URL of a master, or an upstream and a transport";
            return Err(BuildError::missing(self.field("master"), advice));
        }
        if has_none && self.sources.upstreams.is_empty() {
            let advice = "a transport has content; an upstream, or a master, has to say which";
            return Err(BuildError::missing(self.field("upstream"), advice));
        }
        if has_none && self.sources.transports.is_empty() {
            let advice = "an upstream has catalogs; a transport, a swarm or a master has to have the content";
            return Err(BuildError::missing(self.field("transport"), advice));
        }
        if let (Some(path), true) = (&self.token_file, has_none) {
            let advice = "a token is for a master, and none is named";
            return Err(BuildError::invalid(self.field("token_file"), path.display(), advice));
        }
        if let Some(outgoing) = &self.outgoing {
            BuildError::of_settings(self.field("outgoing"), outgoing.check())?;
        }
        if let Some(rules) = &self.prefetch {
            check_rules(&self.field("prefetch"), rules)?;
        }
        let settings = NodeRepository {
            name,
            master: self.masters,
            trust: self.trust,
            token_file: self.token_file,
            outgoing: self.outgoing,
            mounts: self.mounts,
            preseed: self.prefetch,
        };
        Ok((settings, self.sources))
    }
}

impl From<NodeRepository> for Repository {
    fn from(repository: NodeRepository) -> Self {
        Self {
            name: repository.name.to_string(),
            masters: repository.master,
            trust: repository.trust,
            token_file: repository.token_file,
            outgoing: repository.outgoing,
            mounts: repository.mounts,
            prefetch: repository.preseed,
            sources: Sources::default(),
        }
    }
}

/// Whether sources of this type are known to bound their waiting.
fn has_limits<T: 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<HttpOrigin>()
}

pub(super) fn check_rules(field: &str, rules: &RulesConfig) -> Result<(), BuildError> {
    check_globs(field, rules.first.iter().chain(&rules.never)).map(drop)
}

pub(super) fn check_globs<'a>(field: &str, globs: impl Iterator<Item = &'a String>) -> Result<PathGlobs, BuildError> {
    let globs: Vec<String> = globs.cloned().collect();
    for glob in &globs {
        PathGlobs::new([glob]).map_err(|error| BuildError::invalid(field, glob, error))?;
    }
    PathGlobs::new(globs).map_err(|error| BuildError::invalid(field, "", error))
}
