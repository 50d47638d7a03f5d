//! Heads, records and catalogs of a master. A catalog comes compressed, and is decompressed step by step.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use instantmirror_core::keys::KEY_CHAIN_BYTES_MAX;
use instantmirror_core::sign::ENVELOPE_BYTES_MAX;
use instantmirror_core::traits::{ByteStream, HeadNews, TransportError, Upstream};
use instantmirror_core::{NodeId, RepoName, SnapshotId};
use reqwest::{Method, StatusCode};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::connect::Lane;
use super::{HttpOrigin, LONG_POLL_GRACE, PROGRESS_TIMEOUT, Patience, RECORD_BYTES_MAX, lock};

#[async_trait]
impl Upstream for HttpOrigin {
    fn label(&self) -> &str {
        &self.label
    }

    async fn head(&self, repository: &RepoName, after: Option<u64>) -> Result<Option<Bytes>, TransportError> {
        self.wait_for_head(repository, after).await
    }

    async fn head_news(&self, repository: &RepoName, held: u64, wait: bool) -> Result<HeadNews, TransportError> {
        self.news_with_others(repository, held, wait).await
    }

    async fn keys(&self, repository: &RepoName) -> Result<Bytes, TransportError> {
        let request = self.request(Lane::Common, Method::GET, repository, "keys")?;
        let what = format!("the key lists of '{repository}'");
        let response = self.send(&what, request, PROGRESS_TIMEOUT).await?;
        self.collect(response, KEY_CHAIN_BYTES_MAX).await
    }

    async fn snapshot(&self, repository: &RepoName, snapshot: SnapshotId) -> Result<Bytes, TransportError> {
        let request = self.request(Lane::Common, Method::GET, repository, &format!("snapshots/{snapshot}"))?;
        let response = self
            .send(&format!("snapshot {snapshot}"), request, PROGRESS_TIMEOUT)
            .await?;
        self.collect(response, RECORD_BYTES_MAX).await
    }

    async fn delta(
        &self,
        repository: &RepoName,
        have: Option<NodeId>,
        want: NodeId,
    ) -> Result<ByteStream, TransportError> {
        let mut request = self.request(Lane::Common, Method::GET, repository, &format!("catalog/{want}"))?;
        if let Some(have) = have {
            request = request.query(&[("have", have.to_string())]);
        }
        let response = self.send(&format!("catalog {want}"), request, PROGRESS_TIMEOUT).await?;
        let decoder = decoder().map_err(|error| self.protocol(error))?;
        Ok(Box::pin(self.decompress(self.body(response), decoder)))
    }
}

/// Bytes decompressed at a time: bounds what a small compressed chunk can expand to in memory.
const DECOMPRESS_STEP: usize = 256 * 1024;
/// Largest window that a catalog stream may ask for, as a power of two: 8 MiB, which RFC 8878 asks every decoder to
/// support. Without a limit of ours a few bytes of a frame's header would take 128 MiB.
const WINDOW_LOG_MAX: u32 = 23;

/// Most bytes from which nothing is decompressed, before a stream is taken for one that never ends.
const SILENT_BYTES_MAX: usize = 1 << 20;

fn decoder() -> std::io::Result<Decoder<'static>> {
    let mut decoder = Decoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
    Ok(decoder)
}

impl HttpOrigin {
    /// The head; with `after`, one with a higher sequence number, for as long as what stands between bears it.
    pub(super) async fn wait_for_head(
        &self,
        repository: &RepoName,
        after: Option<u64>,
    ) -> Result<Option<Bytes>, TransportError> {
        let Some(sequence) = after else {
            return self.ask_head(repository, None).await;
        };
        self.keep_warm(repository);
        let wait = lock(&self.shared.patience).wait();
        let asked = tokio::time::Instant::now();
        let answer = self.ask_head(repository, Some((sequence, wait))).await;
        let waited = asked.elapsed();
        match answer {
            Err(TransportError::Unreachable { .. }) if Patience::may_be_cut(waited) => {
                // The master may be well, and something in between has lost its patience: a fresh request tells.
                let head = self.ask_head(repository, None).await?;
                self.note_cut(wait, waited);
                Ok(head)
            }
            answer => {
                if answer.is_ok() {
                    lock(&self.shared.patience).ended_well();
                }
                answer
            }
        }
    }

    /// A wait was cut on the way, and the master is well: or it is another program by now, after a quick restart.
    pub(super) fn note_cut(&self, wait: Duration, waited: Duration) {
        self.polls.master_was_away();
        if lock(&self.shared.patience).cut(wait, waited) {
            tracing::info!(
                master = self.label,
                seconds = waited.as_secs_f64(),
                "requests that wait for news are cut on the way; shorter ones are made from now on"
            );
        }
    }

    /// The head, or one with a higher sequence number within some time.
    pub(super) async fn ask_head(
        &self,
        repository: &RepoName,
        after: Option<(u64, Duration)>,
    ) -> Result<Option<Bytes>, TransportError> {
        let mut request = self.request(Lane::Common, Method::GET, repository, "head")?;
        let mut patience = PROGRESS_TIMEOUT;
        if let Some((sequence, wait)) = after {
            request = request.query(&[("after", sequence), ("wait", wait.as_secs())]);
            patience = wait + LONG_POLL_GRACE;
        }
        let response = self
            .send(&format!("the head of '{repository}'"), request, patience)
            .await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        self.collect(response, ENVELOPE_BYTES_MAX).await.map(Some)
    }

    /// Decompresses step by step, so that nothing that was not asked for is ever held.
    fn decompress<B>(
        &self,
        body: B,
        decoder: Decoder<'static>,
    ) -> impl Stream<Item = Result<Bytes, TransportError>> + Send + use<B>
    where
        B: Stream<Item = Result<Bytes, TransportError>> + Send + 'static,
    {
        // `full`: the last step filled its buffer, so the decoder may hold more without more input.
        let state = (self.clone(), Box::pin(body), decoder, Bytes::new(), false, false);
        stream::try_unfold(
            state,
            |(origin, mut body, mut decoder, mut input, mut frame_done, full)| async move {
                let (mut full, mut silent) = (full, 0);
                loop {
                    if input.is_empty() && !full {
                        match body.next().await.transpose()? {
                            Some(bytes) => input = bytes,
                            None if frame_done => return Ok(None),
                            None => return Err(origin.unreachable("the catalog transfer broke off")),
                        }
                        continue;
                    }
                    let mut out = vec![0; DECOMPRESS_STEP];
                    let (hint, read, written) = {
                        let mut source = InBuffer::around(&input);
                        let mut target = OutBuffer::around(&mut out[..]);
                        let hint = decoder
                            .run(&mut source, &mut target)
                            .map_err(|error| origin.protocol(error))?;
                        (hint, source.pos(), target.pos())
                    };
                    frame_done = hint == 0;
                    input = input.slice(read..);
                    silent += read;
                    let stuck = read == 0 && !full;
                    // At the end of its frame it holds nothing, and would ask for a next frame.
                    full = written == DECOMPRESS_STEP && !frame_done;
                    if written > 0 {
                        out.truncate(written);
                        return Ok(Some((
                            Bytes::from(out),
                            (origin, body, decoder, input, frame_done, full),
                        )));
                    }
                    if stuck || silent > SILENT_BYTES_MAX {
                        return Err(origin.protocol("a catalog stream that cannot be decompressed"));
                    }
                }
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_which_nothing_ever_comes_out_ends() {
        let frame = [&0x184D_2A50_u32.to_le_bytes()[..], &1000_u32.to_le_bytes(), &[0; 1000]].concat();
        let error = decompressed(frame.repeat(2000)).unwrap_err();
        assert!(error.to_string().contains("cannot be decompressed"), "{error}");
        assert_eq!(
            decompressed([frame.repeat(10), zstd::encode_all(&b"x"[..], 1).unwrap()].concat()).unwrap(),
            b"x"
        );
    }

    fn decompressed(compressed: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        let origin = HttpOrigin::new("http://example.org/").unwrap();
        let body = stream::iter([Ok(Bytes::from(compressed))]);
        let parts = origin.decompress(body, decoder().unwrap()).collect::<Vec<_>>();
        let mut whole = Vec::new();
        for part in futures_executor::block_on(parts) {
            whole.extend_from_slice(&part?);
        }
        Ok(whole)
    }

    #[test]
    fn a_catalog_stream_of_any_length_comes_out_whole() {
        for len in [
            0,
            1,
            DECOMPRESS_STEP - 1,
            DECOMPRESS_STEP,
            DECOMPRESS_STEP + 1,
            3 * DECOMPRESS_STEP,
        ] {
            let content: Vec<u8> = (0..=250).cycle().take(len).collect();
            let compressed = zstd::stream::encode_all(content.as_slice(), 3).unwrap();
            assert_eq!(decompressed(compressed).unwrap(), content, "{len}");
        }
    }

    #[test]
    fn a_catalog_stream_cannot_ask_for_a_huge_window() {
        let stream_with_window = |log| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            std::io::Write::write_all(&mut encoder, b"x").unwrap();
            std::io::Write::flush(&mut encoder).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(decompressed(stream_with_window(WINDOW_LOG_MAX)).unwrap(), b"x");
        let refused = decompressed(stream_with_window(WINDOW_LOG_MAX + 1));
        assert!(matches!(refused, Err(TransportError::Protocol { .. })), "{refused:?}");
    }
}
