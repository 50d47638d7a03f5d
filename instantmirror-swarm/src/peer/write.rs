//! The writing side of a connection: messages as they come, blocks when nothing else waits.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use instantmirror_core::ObjectId;
use instantmirror_core::swarm::PeerKey;
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Shared;
use super::swarm::{Swarm, Waiting};
use crate::session::{Action, CloseReason, Run};
use crate::wire::extension::OUTBOARD_PART_BYTES;
use crate::wire::{Block, piece_header};

/// A peer that takes nothing for so long is closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Messages are sent when so much of them waits, though more come.
const BATCH_BYTES: usize = 64 * 1024;

/// Writes one connection.
pub(super) struct Writer {
    shared: Arc<Shared>,
    swarm: Arc<Swarm>,
    key: PeerKey,
    stream: OwnedWriteHalf,
    orders: mpsc::UnboundedReceiver<Action>,
    waiting: Arc<Waiting>,
    out: BytesMut,
    may_upload: bool,
    closing: Option<CloseReason>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        swarm: Arc<Swarm>,
        key: PeerKey,
        stream: OwnedWriteHalf,
        orders: mpsc::UnboundedReceiver<Action>,
        waiting: Arc<Waiting>,
    ) -> Self {
        Self {
            shared,
            swarm,
            key,
            stream,
            orders,
            waiting,
            out: BytesMut::new(),
            may_upload: false,
            closing: None,
        }
    }

    /// Writes to the end; says why, if it is known.
    pub(super) async fn run(mut self) -> Option<CloseReason> {
        match self.write_all().await {
            Ok(()) => self.closing,
            Err(error) => {
                tracing::debug!("connection lost: {error}");
                self.closing
            }
        }
    }

    async fn write_all(&mut self) -> io::Result<()> {
        loop {
            self.take_waiting();
            if !self.out.is_empty() {
                let out = self.out.split().freeze();
                within(self.stream.write_all(&out)).await?;
            }
            if self.closing.is_some() {
                return within(self.stream.shutdown()).await;
            }
            if self.may_upload {
                self.upload().await?;
                continue;
            }
            match self.orders.recv().await {
                Some(order) => self.take(order),
                None => return Ok(()),
            }
        }
    }

    fn take_waiting(&mut self) {
        while self.closing.is_none() && self.out.len() < BATCH_BYTES {
            match self.orders.try_recv() {
                Ok(order) => self.take(order),
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, order: Action) {
        self.waiting.taken();
        match order {
            Action::Send(message) => message.encode(&mut self.out),
            Action::Upload => self.may_upload = true,
            Action::Close(reason) => self.closing = Some(reason),
        }
    }

    /// Sends what is waited for next, if there is anything.
    async fn upload(&mut self) -> io::Result<()> {
        let (key, swarm) = (self.key, Arc::clone(&self.swarm));
        if let Some((object, offset)) = swarm.with(|session| session.next_outboard(key)) {
            self.give_outboard(object, offset).await;
            return Ok(());
        }
        if let Some((piece, bytes)) = swarm.with(|session| session.next_metadata(key)) {
            self.shared.pace(&self.shared.upload, bytes).await;
            let now = self.shared.now();
            swarm.with(|session| session.give_metadata(key, piece, now));
            return Ok(());
        }
        let runs = swarm.with(|session| session.next_runs(key));
        if runs.is_empty() {
            self.may_upload = false;
            return Ok(());
        }
        let bytes = runs.iter().map(|run| u64::from(run.bytes())).sum();
        self.shared.pace(&self.shared.upload, bytes).await;
        let parts: Vec<Block> = runs.iter().map(Run::whole).collect();
        let read = swarm.source.read_all(&parts).await;
        let (mut good, mut bad) = (Vec::with_capacity(runs.len()), Vec::new());
        for (run, read) in runs.into_iter().zip(read) {
            match read {
                Ok(data) if data.len() == run.bytes() as usize => good.push((run, data)),
                Ok(_) => bad.push(run),
                Err(error) => {
                    tracing::debug!(piece = run.piece, "cannot be sent to a peer: {error}");
                    bad.push(run);
                }
            }
        }
        if !bad.is_empty() {
            let now = self.shared.now();
            swarm.with(|session| bad.iter().for_each(|run| session.not_sent(key, run, now)));
        }
        self.send_runs(&good).await?;
        let now = self.shared.now();
        swarm.with(|session| good.iter().for_each(|(run, _)| session.sent(key, run, now)));
        Ok(())
    }

    /// Answers a request for part of an outboard. One at a time, so a peer that asks for many waits for them itself.
    async fn give_outboard(&self, object: ObjectId, offset: u32) {
        let (key, swarm) = (self.key, &self.swarm);
        let place = swarm.source.place_of(&object);
        let may_know = || place.is_some_and(|place| swarm.with(|session| session.may_know(key, place.first_piece)));
        let outboard = if may_know() {
            swarm.own_outboard(&object).await
        } else {
            None
        };
        let bytes = outboard.as_ref().map_or(0, |outboard| outboard.len() as u64);
        let bytes = bytes.min(u64::from(OUTBOARD_PART_BYTES));
        self.shared.pace(&self.shared.upload, bytes).await;
        let now = self.shared.now();
        // Meanwhile it may have become one of those that not everybody may know of.
        let outboard = outboard.filter(|_| may_know());
        swarm.with(|session| session.answer_outboard(key, object, offset, outboard.as_ref(), now));
    }

    async fn send_runs(&mut self, runs: &[(Run, Bytes)]) -> io::Result<()> {
        let blocks = runs.iter().flat_map(|(run, _)| run.blocks());
        let headers: Vec<_> = blocks
            .map(|block| piece_header(block.piece, block.begin, block.length))
            .collect();
        let mut slices = Vec::with_capacity(headers.len() * 2);
        let mut headers = headers.iter();
        for (run, data) in runs {
            let mut rest = &data[..];
            for (length, header) in run.lengths.iter().zip(headers.by_ref()) {
                let (block, behind) = rest.split_at((*length as usize).min(rest.len()));
                slices.push(IoSlice::new(header));
                slices.push(IoSlice::new(block));
                rest = behind;
            }
        }
        let mut left = &mut slices[..];
        while !left.is_empty() {
            let written = within(self.stream.write_vectored(left)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut left, written);
        }
        Ok(())
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(WRITE_TIMEOUT, work).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
