//! The traits of those who have what we need: objects ([`PeerTransport`] one side, [`Swarm`] many, [`Transport`] either of
//! them), heads and catalogs ([`Upstream`]).

use std::fmt::Debug;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;

use super::{Class, TransportError};
use crate::{NodeId, ObjectId, RepoName, SnapshotId};

/// Bytes as they arrive, in order, without gaps. Ends early only with an error. Dropping it cancels the
/// transfer.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, TransportError>> + Send>>;

/// One object of a batch: its id, and its content or why it did not come.
pub type BatchItem = (ObjectId, Result<Bytes, TransportError>);

/// Part of an object, from somebody in particular. Dropping it without a word gives it back: it may come again.
#[derive(Debug)]
pub struct Group {
    /// Where it begins in the object.
    pub offset: u64,
    /// Whole groups, not yet verified.
    pub data: Bytes,
    /// Who is to be told what they were worth.
    pub receipt: Box<dyn Receipt>,
}

/// Takes note of whether what came was good.
pub trait Receipt: Debug + Send {
    /// It verified and is kept.
    fn good(self: Box<Self>);

    /// It is not what was asked for: whoever sent it is not to be believed. It is asked of others.
    fn bad(self: Box<Self>);
}

/// Groups in the order in which they come. Goes on until all of the range was good, or to an error. Dropping it cancels
/// the transfer.
pub type GroupStream = Pin<Box<dyn Stream<Item = Result<Group, TransportError>> + Send>>;

/// What is asked of a swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRequest {
    /// The object.
    pub object: ObjectId,
    /// Its size in bytes.
    pub size: u64,
    /// Whole groups of it.
    pub range: Range<u64>,
    /// How urgent it is.
    pub class: Class,
    /// Its rank inside the class.
    pub rank: u32,
}

/// A source of objects: one side that answers ranges, or a swarm of many.
#[derive(Debug, Clone)]
pub enum Transport {
    /// One side: asked for ranges, in order.
    Origin(Arc<dyn PeerTransport>),
    /// Many: asked for groups, which come in any order.
    Swarm(Arc<dyn Swarm>),
}

impl Transport {
    /// A source that is one side.
    pub fn origin(transport: impl PeerTransport) -> Self {
        Self::Origin(Arc::new(transport))
    }

    /// A source that is a swarm.
    pub fn swarm(swarm: impl Swarm) -> Self {
        Self::Swarm(Arc::new(swarm))
    }

    /// Who it is, for logs and statistics.
    #[must_use]
    pub fn label(&self) -> &str {
        match self {
            Self::Origin(origin) => origin.label(),
            Self::Swarm(swarm) => swarm.label(),
        }
    }

    /// As [`PeerTransport::outboard`] or [`Swarm::outboard`].
    ///
    /// # Errors
    /// Any [`TransportError`].
    pub async fn outboard(
        &self,
        repository: &RepoName,
        object: &ObjectId,
        size: u64,
        class: Class,
    ) -> Result<Bytes, TransportError> {
        match self {
            Self::Origin(origin) => origin.outboard(repository, object, size, class).await,
            Self::Swarm(swarm) => swarm.outboard(repository, object, size, class).await,
        }
    }

    /// As [`PeerTransport::batch`] or [`Swarm::batch`]: of a swarm, in any order.
    ///
    /// # Errors
    /// Any [`TransportError`].
    pub async fn batch(
        &self,
        repository: &RepoName,
        objects: &[(ObjectId, u64)],
        class: Class,
        sink: &mut (dyn FnMut(BatchItem) + Send),
    ) -> Result<(), TransportError> {
        match self {
            Self::Origin(origin) => origin.batch(repository, objects, class, sink).await,
            Self::Swarm(swarm) => swarm.batch(repository, objects, class, sink).await,
        }
    }
}

/// Many who have objects, of whom each may have another part. The swarm decides whom it asks for what, and bans whoever sent
/// what a [`Receipt`] calls bad.
///
/// Nothing that a swarm delivers is trusted, except that objects of a [`batch`](Self::batch) are verified by their ids. A
/// swarm bounds its own waiting as a [`PeerTransport`] does. Cancellation: drop the future or the stream; groups that were not
/// given a receipt are asked for again when somebody wants them.
#[async_trait]
pub trait Swarm: Debug + Send + Sync + 'static {
    /// Who it is, for logs and statistics.
    fn label(&self) -> &str;

    /// Groups of an object, in any order.
    ///
    /// # Errors
    /// [`TransportError::NotFound`] at once if nobody in the swarm has any of it; any [`TransportError`] from the stream.
    async fn groups(&self, repository: &RepoName, request: GroupRequest) -> Result<GroupStream, TransportError>;

    /// Whether somebody who has some of an object would answer at once. Must not wait.
    fn is_ready(&self, object: &ObjectId) -> bool;

    /// The chaining values of an object of `size` bytes (see [`crate::outboard`]), not yet verified.
    ///
    /// # Errors
    /// Any [`TransportError`].
    async fn outboard(
        &self,
        repository: &RepoName,
        object: &ObjectId,
        size: u64,
        class: Class,
    ) -> Result<Bytes, TransportError>;

    /// Many small objects, each with its size, handed to `sink` as they are whole, in any order. One that nobody has is an item
    /// with [`TransportError::NotFound`]; the others still come.
    ///
    /// # Errors
    /// Any [`TransportError`] that ended the whole batch; what was handed to `sink` before is good.
    async fn batch(
        &self,
        repository: &RepoName,
        objects: &[(ObjectId, u64)],
        class: Class,
        sink: &mut (dyn FnMut(BatchItem) + Send),
    ) -> Result<(), TransportError>;
}

/// One side that has objects: an HTTP origin, a test.
///
/// Nothing that a transport delivers is trusted: whoever asked verifies it against the object id. A
/// transport bounds its own waiting: no future or stream makes no progress for longer than its time-out,
/// it fails with [`TransportError::Unreachable`] instead. Cancellation: drop the future or the stream.
#[async_trait]
pub trait PeerTransport: Debug + Send + Sync + 'static {
    /// Who it is, for logs and statistics: a URL or an address.
    fn label(&self) -> &str;

    /// How long the other side takes for the smallest answer there is, asked for on a connection of its own: what queues on the
    /// line add to that shows how full it is. `None` if there is no such question, or no answer.
    async fn answer_time(&self, repository: &RepoName) -> Option<Duration> {
        let _ = repository;
        None
    }

    /// Bytes `range` of an object, as a stream of exactly that many bytes. `class` says who waits for them: a transport may
    /// keep what nobody waits for apart, and tell the other side.
    ///
    /// # Errors
    /// Any [`TransportError`], also from the stream.
    async fn range(
        &self,
        repository: &RepoName,
        object: &ObjectId,
        range: Range<u64>,
        class: Class,
    ) -> Result<ByteStream, TransportError>;

    /// The chaining values of an object of `size` bytes (see [`crate::outboard`]), not yet verified.
    ///
    /// # Errors
    /// Any [`TransportError`].
    async fn outboard(
        &self,
        repository: &RepoName,
        object: &ObjectId,
        size: u64,
        class: Class,
    ) -> Result<Bytes, TransportError>;

    /// Many small objects in one request, each with its size, handed to `sink` as they come, in the order asked
    /// for. An object that the other side lacks is an item with [`TransportError::NotFound`]; the others still come.
    ///
    /// # Errors
    /// Any [`TransportError`] that ended the whole batch; what was handed to `sink` before is good.
    async fn batch(
        &self,
        repository: &RepoName,
        objects: &[(ObjectId, u64)],
        class: Class,
        sink: &mut (dyn FnMut(BatchItem) + Send),
    ) -> Result<(), TransportError>;
}

/// What came of the question whether there is another head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadNews {
    /// There is: the signed head, not yet verified.
    Head(Bytes),
    /// There is none: the other side's head is the one that was named.
    Same,
    /// None with a higher sequence number. It may be a lower one: the other side was not asked for that.
    NoneNewer,
}

/// Somebody who knows heads, records and catalogs: the master, or a node that passes them on.
#[async_trait]
pub trait Upstream: Debug + Send + Sync + 'static {
    /// Who it is, for logs and statistics.
    fn label(&self) -> &str;

    /// The signed head, not yet verified. With `after`, waits until the other side has one with a higher
    /// sequence number; `None` if the wait ended without one (ask again).
    ///
    /// # Errors
    /// Any [`TransportError`].
    async fn head(&self, repository: &RepoName, after: Option<u64>) -> Result<Option<Bytes>, TransportError>;

    /// The head, if it is another one than that with sequence number `held` (0: none is held). With `wait`, waits until it
    /// is one, but not for ever: ask again.
    ///
    /// An implementation may put the questions of many who ask at the same time into one request. What is wrong with one
    /// repository must be the trouble of those alone who ask for that one. Unless it does so, it asks for the
    /// [head](Self::head).
    ///
    /// # Errors
    /// Any [`TransportError`].
    async fn head_news(&self, repository: &RepoName, held: u64, wait: bool) -> Result<HeadNews, TransportError> {
        // One that has nothing is waited for in any case: a head that is not there cannot be asked for.
        let after = (wait || held == 0).then_some(held);
        let head = self.head(repository, after).await?;
        Ok(head.map_or(HeadNews::NoneNewer, HeadNews::Head))
    }

    /// The key lists of a master ([`KeyChain::encode`](crate::KeyChain::encode)), not yet verified; none from somebody who
    /// does not know of any.
    ///
    /// # Errors
    /// Any [`TransportError`].
    async fn keys(&self, repository: &RepoName) -> Result<Bytes, TransportError> {
        let _ = repository;
        Ok(Bytes::new())
    }

    /// The bytes of a snapshot record, not yet verified.
    ///
    /// # Errors
    /// Any [`TransportError`].
    async fn snapshot(&self, repository: &RepoName, snapshot: SnapshotId) -> Result<Bytes, TransportError>;

    /// The catalog nodes reachable from `want` and not from `have`, as a stream of
    /// [frames](crate::catalog::frame), decompressed, not yet verified.
    ///
    /// # Errors
    /// Any [`TransportError`], also from the stream.
    async fn delta(
        &self,
        repository: &RepoName,
        have: Option<NodeId>,
        want: NodeId,
    ) -> Result<ByteStream, TransportError>;
}
