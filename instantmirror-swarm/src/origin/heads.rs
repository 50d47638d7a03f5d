//! One long poll for all repositories of a master: [`HeadPolls`] gathers who waits for a head, and asks the master for all
//! of them in one request (`POST /.im/v1/heads`).
//!
//! A poll names more than those who wait at that moment: whoever was just told of another head is busy with it for a while,
//! and is asked for meanwhile with the head that was told, so that the poll fits when it comes back. A poll that does not
//! fit any more, since somebody waits for something else, is given up and asked anew.
//!
//! Invariant: what is wrong with one repository is told to those alone who wait for that one. A master that does not know
//! this request is asked for each repository by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use instantmirror_core::RepoName;
use instantmirror_core::heads::{self, HEADS_BYTES_MAX, HEADS_MAX, HeadMark, HeadMarks, HeadQuestion};
use instantmirror_core::traits::{HeadNews, TransportError, moved_of};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::connect::Lane;
use super::{HttpOrigin, LONG_POLL_GRACE, PROGRESS_TIMEOUT, Patience, lock};

/// Those who come within this time go into one request. It delays nobody's news: the master compares when it is asked.
const GATHER: Duration = Duration::from_millis(20);
/// A poll that waits is given up for somebody who comes so long after the first one that it does not fit.
const GATHER_ANEW: Duration = Duration::from_millis(100);
/// Nobody waits for so long: whoever was told of something is not expected back soon.
const REST: Duration = Duration::from_secs(5);
/// Who does not come back within this time is not asked for any more.
const FORGET_AFTER: Duration = Duration::from_secs(120);
/// A master that does not know the request, and shows no sign of a restart, is tried again after this time.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(4 * 3600);

/// What a poll has told of a repository.
type Told = Result<HeadMark, Untold>;

/// Why it has not.
#[derive(Debug, Clone)]
enum Untold {
    /// The master is to be asked for this repository by itself.
    AskAlone,
    Failed(TransportError),
}

impl From<TransportError> for Untold {
    fn from(error: TransportError) -> Self {
        Self::Failed(error)
    }
}

/// Somebody who waits for another head than the one held.
#[derive(Debug)]
struct Waiter {
    repository: RepoName,
    held: HeadMark,
    sender: oneshot::Sender<Told>,
}

/// A repository of which somebody was told, and is expected back.
#[derive(Debug)]
struct Expected {
    mark: HeadMark,
    since: Instant,
    /// Whether it does not have that head yet.
    is_pending: bool,
}

#[derive(Debug, Default)]
struct State {
    waiters: Vec<Waiter>,
    expected: BTreeMap<RepoName, Expected>,
    /// Whether somebody polls for them.
    is_polled: bool,
    /// Those who want to know now, and wait for the others who do.
    curious: Vec<Waiter>,
    /// Until when the master is asked for each repository by itself.
    alone_until: Option<Instant>,
}

/// Who waits for heads of a master, and how it is asked.
#[derive(Debug, Default)]
pub(super) struct HeadPolls {
    state: Mutex<State>,
    /// Somebody began to wait, or stopped.
    changed: Notify,
}

/// Tells the poll that somebody does not wait any more.
struct Place<'a>(&'a HeadPolls);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.changed.notify_one();
    }
}

/// The task that polls. One that is dropped, since its runtime ends, leaves nobody waiting for it.
struct Poller {
    polls: Arc<HeadPolls>,
    has_ended: bool,
}

impl Poller {
    fn new(polls: &Arc<HeadPolls>) -> Self {
        Self {
            polls: Arc::clone(polls),
            has_ended: false,
        }
    }

    /// Ends the poll if nobody waits: decided where nobody can come to wait meanwhile.
    fn ends(&mut self) -> bool {
        let mut state = self.polls.state();
        if state.waiters.is_empty() {
            (state.is_polled, self.has_ended) = (false, true);
            state.expected.clear();
        }
        self.has_ended
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut state = self.polls.state();
            state.is_polled = false;
            state.waiters.clear();
            state.expected.clear();
        }
    }
}

impl State {
    /// What a poll asks for: all who wait, and all who are expected back; `None` if nobody waits.
    fn question(&mut self, now: Instant) -> Option<HeadQuestion> {
        self.waiters.retain(|waiter| !waiter.sender.is_closed());
        if self.waiters.is_empty() {
            return None;
        }
        self.expected
            .retain(|_, expected| now.duration_since(expected.since) < FORGET_AFTER);
        let waiting = self
            .waiters
            .iter()
            .map(|waiter| (waiter.repository.clone(), waiter.held));
        let mut question = HeadQuestion {
            known: waiting.collect(),
            pending: BTreeSet::new(),
        };
        for (repository, expected) in &self.expected {
            if question.known.len() == HEADS_MAX || question.known.contains_key(repository) {
                continue;
            }
            question.known.insert(repository.clone(), expected.mark);
            if expected.is_pending {
                question.pending.insert(repository.clone());
            }
        }
        Some(question)
    }

    /// Somebody comes back. Returns whether it has what it was told of, which the master does not know yet.
    fn comes_back(&mut self, repository: &RepoName, held: HeadMark) -> bool {
        let expected = self
            .expected
            .get_mut(repository)
            .filter(|expected| expected.mark == held);
        expected.is_some_and(|expected| std::mem::take(&mut expected.is_pending))
    }

    /// Whether a question that was asked is the one for those who wait now, and somebody does.
    fn is_answered_by(&mut self, asked: &HeadMarks) -> bool {
        self.waiters.retain(|waiter| !waiter.sender.is_closed());
        let suits = |waiter: &Waiter| asked.get(&waiter.repository) == Some(&waiter.held);
        !self.waiters.is_empty() && self.waiters.iter().all(suits)
    }

    /// Whether there is room for another one, and nobody who holds another head of the same repository: no question can
    /// name both.
    fn has_room(&self, repository: &RepoName, held: HeadMark) -> bool {
        let differs = |waiter: &Waiter| waiter.repository == *repository && waiter.held != held;
        self.waiters.len() < HEADS_MAX && !self.waiters.iter().any(differs)
    }

    /// Takes up where the heads of some repositories are, and tells those who wait for that.
    fn tell(&mut self, asked: &HeadMarks, moved: &HeadMarks, now: Instant) {
        let mut told = Vec::new();
        let all = std::mem::take(&mut self.waiters);
        for waiter in all {
            match moved.get(&waiter.repository) {
                Some(mark) if *mark != waiter.held => told.push((waiter, *mark)),
                _ => self.waiters.push(waiter),
            }
        }
        for (repository, mark) in moved.iter().filter(|(repository, _)| asked.contains_key(*repository)) {
            let expected = Expected {
                mark: *mark,
                since: now,
                is_pending: *mark != HeadMark::Absent,
            };
            self.expected.insert(repository.clone(), expected);
        }
        for (waiter, mark) in told {
            let _ = waiter.sender.send(Ok(mark));
        }
    }

    /// Nothing has moved for as long as the master waited: whoever was asked for looks around, and comes back.
    fn tell_that_nothing_moved(&mut self, asked: &HeadMarks, now: Instant) {
        let all = std::mem::take(&mut self.waiters);
        for waiter in all {
            if asked.get(&waiter.repository) != Some(&waiter.held) {
                self.waiters.push(waiter);
                continue;
            }
            let expected = Expected {
                mark: waiter.held,
                since: now,
                is_pending: false,
            };
            self.expected.insert(waiter.repository.clone(), expected);
            let _ = waiter.sender.send(Ok(waiter.held));
        }
    }

    /// All who wait hear of what is wrong with the master, and what it told before is worth nothing.
    fn fail(&mut self, untold: &Untold) {
        self.expected.clear();
        for waiter in self.waiters.drain(..) {
            let _ = waiter.sender.send(Err(untold.clone()));
        }
    }
}

impl HeadPolls {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the master may know the request.
    fn is_used(&self) -> bool {
        let mut state = self.state();
        let is_alone = state.alone_until.is_some_and(|until| Instant::now() < until);
        if !is_alone {
            state.alone_until = None;
        }
        !is_alone
    }

    /// The master could not be reached: who answers next may be another program.
    pub(super) fn master_was_away(&self) {
        self.state().alone_until = None;
    }

    /// The master does not know the request. Returns whether that is news.
    fn is_not_known(&self) -> bool {
        let until = Instant::now() + TRY_AGAIN_AFTER;
        self.state().alone_until.replace(until).is_none()
    }
}

impl HttpOrigin {
    /// [`Upstream::head_news`](instantmirror_core::traits::Upstream::head_news), with all who ask at the same time.
    pub(super) async fn news_with_others(
        &self,
        repository: &RepoName,
        held: u64,
        wait: bool,
    ) -> Result<HeadNews, TransportError> {
        let mark = HeadMark::Sequence(held);
        let told = if !self.polls.is_used() {
            Err(Untold::AskAlone)
        } else if wait {
            self.wait_with_others(repository, mark).await
        } else {
            self.look_with_others(repository, mark).await
        };
        match told {
            Ok(told) if told == mark => Ok(HeadNews::Same),
            Ok(HeadMark::Absent) => Err(TransportError::NotFound {
                from: self.label.clone(),
                what: format!("repository '{repository}'"),
            }),
            Ok(HeadMark::Sequence(_)) => {
                let head = self.ask_head(repository, None).await?;
                Ok(head.map_or(HeadNews::NoneNewer, HeadNews::Head))
            }
            Err(Untold::Failed(error)) => Err(error),
            Err(Untold::AskAlone) => self.news_alone(repository, held, wait).await,
        }
    }

    async fn news_alone(&self, repository: &RepoName, held: u64, wait: bool) -> Result<HeadNews, TransportError> {
        // A head that is not there cannot be asked for, but it can be waited for.
        let after = (wait || held == 0).then_some(held);
        let head = self.wait_for_head(repository, after).await;
        if matches!(head, Err(TransportError::Unreachable { .. })) {
            self.polls.master_was_away();
        }
        Ok(head?.map_or(HeadNews::NoneNewer, HeadNews::Head))
    }

    /// Waits in the poll of all.
    async fn wait_with_others(&self, repository: &RepoName, held: HeadMark) -> Told {
        let (sender, told) = oneshot::channel();
        let (is_polled, is_done) = {
            let mut state = self.polls.state();
            if !state.has_room(repository, held) {
                return Err(Untold::AskAlone);
            }
            let is_done = state.comes_back(repository, held);
            state.waiters.push(Waiter {
                repository: repository.clone(),
                held,
                sender,
            });
            (std::mem::replace(&mut state.is_polled, true), is_done)
        };
        if is_done {
            // The poll that waits says otherwise, and need not be given up for that: the master hears of it beside.
            let (origin, repository) = (self.clone(), repository.clone());
            tokio::spawn(async move { origin.look_with_others(&repository, held).await });
        }
        let _place = Place(&self.polls);
        if is_polled {
            self.polls.changed.notify_one();
        } else {
            let (origin, poller) = (self.clone(), Poller::new(&self.polls));
            tokio::spawn(async move { origin.poll_for_all(poller).await });
        }
        told.await
            .unwrap_or_else(|_| Err(self.unreachable("the poll was given up").into()))
    }

    /// Asks at once, with all who ask at the same time.
    async fn look_with_others(&self, repository: &RepoName, held: HeadMark) -> Told {
        let (sender, told) = oneshot::channel();
        let is_first = {
            let mut state = self.polls.state();
            let is_first = state.curious.is_empty();
            state.curious.push(Waiter {
                repository: repository.clone(),
                held,
                sender,
            });
            is_first
        };
        if is_first {
            let origin = self.clone();
            tokio::spawn(async move { origin.look_for_all().await });
        }
        told.await
            .unwrap_or_else(|_| Err(self.unreachable("the question was given up").into()))
    }

    async fn look_for_all(&self) {
        tokio::time::sleep(GATHER).await;
        let mut curious = std::mem::take(&mut self.polls.state().curious);
        while !curious.is_empty() {
            let rest = curious.split_off(curious.len().min(HEADS_MAX));
            let known: HeadMarks = curious.iter().map(|one| (one.repository.clone(), one.held)).collect();
            let question = HeadQuestion {
                known,
                pending: BTreeSet::new(),
            };
            let moved = self.ask_heads(&question, Duration::ZERO).await;
            let known = &question.known;
            for one in curious {
                let asked = known.get(&one.repository) == Some(&one.held);
                let mark = |moved: &HeadMarks| moved.get(&one.repository).copied().unwrap_or(one.held);
                let _ = one.sender.send(match &moved {
                    Ok(moved) if asked => Ok(mark(moved)),
                    Ok(_) => Err(Untold::AskAlone),
                    Err(untold) => Err(untold.clone()),
                });
            }
            curious = rest;
        }
    }

    /// Polls for whoever waits, until nobody does.
    async fn poll_for_all(&self, mut poller: Poller) {
        let polls = &self.polls;
        let mut gather = GATHER;
        loop {
            tokio::time::sleep(gather).await;
            gather = GATHER;
            let question = polls.state().question(Instant::now());
            let Some(question) = question else {
                if tokio::time::timeout(REST, polls.changed.notified()).await.is_err() && poller.ends() {
                    return;
                }
                continue;
            };
            let mut asking = std::pin::pin!(self.ask_and_wait(&question));
            let answer = loop {
                tokio::select! {
                    answer = &mut asking => break Some(answer),
                    () = polls.changed.notified() => {}
                }
                if !polls.state().is_answered_by(&question.known) {
                    break None;
                }
            };
            match answer {
                Some(Ok(moved)) if moved.is_empty() => {
                    polls.state().tell_that_nothing_moved(&question.known, Instant::now());
                }
                Some(Ok(moved)) => polls.state().tell(&question.known, &moved, Instant::now()),
                Some(Err(untold)) => polls.state().fail(&untold),
                None => gather = GATHER_ANEW,
            }
        }
    }

    /// Asks what has moved, for as long as what stands between bears it.
    async fn ask_and_wait(&self, question: &HeadQuestion) -> Result<HeadMarks, Untold> {
        if let Some(repository) = question.known.keys().next() {
            self.keep_warm(repository);
        }
        let wait = lock(&self.shared.patience).wait();
        let asked = Instant::now();
        let answer = self.ask_heads(question, wait).await;
        let waited = asked.elapsed();
        match answer {
            Err(Untold::Failed(TransportError::Unreachable { .. })) if Patience::may_be_cut(waited) => {
                // The master may be well, and something in between has lost its patience: a fresh request tells.
                let moved = self.ask_heads(question, Duration::ZERO).await?;
                self.note_cut(wait, waited);
                Ok(moved)
            }
            answer => {
                if answer.is_ok() {
                    lock(&self.shared.patience).ended_well();
                }
                answer
            }
        }
    }

    /// Which of these have another head than is known; none if there was none within the wait.
    async fn ask_heads(&self, question: &HeadQuestion, wait: Duration) -> Result<HeadMarks, Untold> {
        let mut url = self.base_now();
        url.set_path(&format!("{}.im/v1/heads", url.path()));
        let mut request = self
            .request_to(Lane::Common, Method::POST, url)?
            .query(&[("wait", wait.as_secs())]);
        if let Some(id) = self.node_id {
            request = request.query(&[("node", format!("{id:016x}"))]);
        }
        let request = request.body(question.encode());
        let patience = if wait.is_zero() {
            PROGRESS_TIMEOUT
        } else {
            wait + LONG_POLL_GRACE
        };
        let response = self.follow(request, patience).await?;
        match response.status() {
            StatusCode::NO_CONTENT => Ok(HeadMarks::new()),
            StatusCode::OK => {
                let answer = self.collect(response, HEADS_BYTES_MAX).await?;
                let Ok(now) = heads::decode(&answer) else {
                    return Err(self.ask_alone("an answer that is none to this request"));
                };
                // What was not asked for is no answer.
                let known = &question.known;
                Ok(moved_of(known, |repository| {
                    now.get(repository).copied().unwrap_or(known[repository])
                }))
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(self.no_heads(&response)),
            status if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => {
                Err(self.no_heads(&response))
            }
            status => Err(self.ask_alone(status.as_str())),
        }
    }

    fn no_heads(&self, response: &Response) -> Untold {
        let reason = format!("{} for the heads of its repositories", response.status());
        self.unreachable_at(response.url(), reason).into()
    }

    fn ask_alone(&self, why: &str) -> Untold {
        if self.polls.is_not_known() {
            tracing::info!(
                master = self.label,
                why,
                "it cannot be asked for all its repositories at once (an older one, or a gate in front of it); each is asked for by itself"
            );
        }
        Untold::AskAlone
    }
}

#[cfg(test)]
#[path = "heads_tests.rs"]
mod tests;
