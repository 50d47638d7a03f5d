//! Many small objects in one answer: the bytes of a batch request and its answer (docs/formats/api.md).
//!
//! Request: the 32-byte ids one after another. Answer: for each id in that order a status byte, and behind
//! status 0 the length (64 bits, little-endian) and the content.

use std::collections::{HashMap, HashSet};

use bytes::{Buf, Bytes, BytesMut};

use crate::ObjectId;
use crate::traits::BatchItem;

/// Most objects in one batch.
pub const BATCH_OBJECTS_MAX: usize = 4096;
/// Largest object that is answered in a batch; larger ones are asked for alone.
pub const BATCH_OBJECT_BYTES_MAX: u64 = 4 << 20;

/// Most bytes of objects in one answer: those that come later count as not there. Nodes ask for far less at a time.
pub const BATCH_ANSWER_BYTES_MAX: u64 = 64 << 20;

const FOUND: u8 = 0;
const MISSING: u8 = 1;

/// Why batch bytes were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// A request that is not whole ids, none, or more than [`BATCH_OBJECTS_MAX`].
    #[error("a batch request is 1 to {BATCH_OBJECTS_MAX} object ids of 32 bytes each")]
    Request,
    /// A request that names an object twice: to read it twice would serve nobody.
    #[error("object {0} is there twice in a batch request; name each once")]
    Repeated(ObjectId),
    /// A status byte that does not exist.
    #[error("unknown status {0} in a batch")]
    Status(u8),
    /// A content of another length than the object has.
    #[error("an object of {found} bytes where one of {expected} was asked for")]
    Length {
        /// Bytes announced.
        found: u64,
        /// Bytes asked for.
        expected: u64,
    },
    /// More or fewer answers than questions.
    #[error("the batch stops early or goes on too long")]
    Count,
}

/// The bytes of a request.
#[must_use]
pub fn encode_request<'a>(objects: impl IntoIterator<Item = &'a ObjectId>) -> Vec<u8> {
    objects.into_iter().flat_map(|object| *object.as_bytes()).collect()
}

/// Takes a request apart.
///
/// # Errors
/// [`BatchError::Request`], [`BatchError::Repeated`].
pub fn decode_request(body: &[u8]) -> Result<Vec<ObjectId>, BatchError> {
    let (ids, rest) = body.as_chunks::<32>();
    if !rest.is_empty() || ids.is_empty() || ids.len() > BATCH_OBJECTS_MAX {
        return Err(BatchError::Request);
    }
    let mut seen = HashSet::with_capacity(ids.len());
    match ids.iter().find(|id| !seen.insert(*id)) {
        Some(id) => Err(BatchError::Repeated(ObjectId::from_bytes(*id))),
        None => Ok(ids.iter().copied().map(ObjectId::from_bytes).collect()),
    }
}

/// The bytes before the content of an object that is there.
#[must_use]
pub fn found_header(size: u64) -> [u8; 9] {
    let mut header = [FOUND; 9];
    header[1..].copy_from_slice(&size.to_le_bytes());
    header
}

/// The answer for an object that is not there.
pub const MISSING_ITEM: [u8; 1] = [MISSING];

/// Takes an answer apart as it arrives. Holds at most one object plus what was pushed last.
#[derive(Debug)]
pub struct BatchDecoder {
    buffer: BytesMut,
    expected: std::vec::IntoIter<(ObjectId, u64)>,
}

impl BatchDecoder {
    /// A decoder of the answer to a request for `objects`, each with its size.
    #[must_use]
    pub fn new(objects: &[(ObjectId, u64)]) -> Self {
        Self {
            buffer: BytesMut::new(),
            expected: Vec::from(objects).into_iter(),
        }
    }

    /// Adds bytes in the order in which they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole answer (`None` content: not there), or `None` until more bytes are pushed.
    ///
    /// # Errors
    /// [`BatchError::Status`], [`BatchError::Length`], or [`BatchError::Count`] for bytes after the
    /// last answer.
    pub fn next_item(&mut self) -> Result<Option<(ObjectId, Option<Bytes>)>, BatchError> {
        let Some(&status) = self.buffer.first() else {
            return Ok(None);
        };
        let Some(&(object, size)) = self.expected.as_slice().first() else {
            return Err(BatchError::Count);
        };
        let content = match status {
            MISSING => {
                self.buffer.advance(1);
                None
            }
            FOUND => {
                let Some(&header) = self.buffer.first_chunk::<9>() else {
                    return Ok(None);
                };
                let mut len = [0; 8];
                len.copy_from_slice(&header[1..]);
                let found = u64::from_le_bytes(len);
                if found != size {
                    return Err(BatchError::Length { found, expected: size });
                }
                let len = usize::try_from(size).map_err(|_| BatchError::Length { found, expected: size })?;
                if self.buffer.len() - 9 < len {
                    return Ok(None);
                }
                self.buffer.advance(9);
                Some(self.buffer.split_to(len).freeze())
            }
            other => return Err(BatchError::Status(other)),
        };
        self.expected.next();
        Ok(Some((object, content)))
    }

    /// To be called when the answer is over.
    ///
    /// # Errors
    /// [`BatchError::Count`] if answers are missing.
    pub fn finish(&self) -> Result<(), BatchError> {
        if self.buffer.is_empty() && self.expected.as_slice().is_empty() {
            Ok(())
        } else {
            Err(BatchError::Count)
        }
    }
}

/// Asks for an object once that is wanted twice, since masters refuse repetitions, and hands the answers out in the order
/// in which they are wanted.
#[derive(Debug)]
pub struct BatchOrder {
    requested: Vec<(ObjectId, u64)>,
    wanted: std::vec::IntoIter<ObjectId>,
    /// Answers to what is wanted again, once they are there.
    repeated: HashMap<ObjectId, Option<BatchItem>>,
}

impl BatchOrder {
    /// The order of these objects, each with its size.
    #[must_use]
    pub fn new(objects: &[(ObjectId, u64)]) -> Self {
        let mut repeated = HashMap::new();
        let mut seen = HashSet::with_capacity(objects.len());
        let mut is_first = |object: &ObjectId| {
            let is_first = seen.insert(*object);
            if !is_first {
                repeated.insert(*object, None);
            }
            is_first
        };
        let requested = objects.iter().filter(|(object, _)| is_first(object)).copied().collect();
        let wanted: Vec<ObjectId> = objects.iter().map(|(object, _)| *object).collect();
        Self {
            requested,
            wanted: wanted.into_iter(),
            repeated,
        }
    }

    /// Each object once, in the order of its first place.
    #[must_use]
    pub fn requested(&self) -> &[(ObjectId, u64)] {
        &self.requested
    }

    /// The answer to the next one that was requested; `sink` gets it, and answers from before that are wanted again now.
    pub fn answered(&mut self, item: BatchItem, sink: &mut (dyn FnMut(BatchItem) + Send)) {
        if let Some(kept) = self.repeated.get_mut(&item.0) {
            *kept = Some(item.clone());
        }
        self.wanted.next();
        sink(item);
        while let Some(again) = self.wanted.as_slice().first().and_then(|next| self.repeated.get(next)) {
            let Some(again) = again.clone() else { break };
            self.wanted.next();
            sink(again);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_twice_is_asked_for_once_and_comes_in_order() {
        let objects = [&b"a"[..], b"b", b"a", b"a", b"c", b"b"].map(|data| (ObjectId::of(data), 1));
        let mut order = BatchOrder::new(&objects);
        let requested = order.requested().to_vec();
        assert_eq!(requested, [objects[0], objects[1], objects[4]]);
        let mut got = Vec::new();
        for (object, _) in requested {
            order.answered((object, Ok(Bytes::new())), &mut |(object, _)| got.push(object));
        }
        assert_eq!(got, objects.map(|(object, _)| object));
    }

    #[test]
    fn comes_apart_in_order_in_any_chunks() {
        let ids: Vec<_> = [&b"one"[..], b"", b"gone"]
            .iter()
            .map(|c| (ObjectId::of(c), c.len() as u64))
            .collect();
        let mut answer = found_header(3).to_vec();
        answer.extend_from_slice(b"one");
        answer.extend_from_slice(&found_header(0));
        answer.extend_from_slice(&MISSING_ITEM);
        for step in 1..answer.len() {
            let mut decoder = BatchDecoder::new(&ids);
            let mut items = Vec::new();
            for part in answer.chunks(step) {
                decoder.push(part);
                while let Some((id, content)) = decoder.next_item().unwrap() {
                    items.push((id, content));
                }
            }
            decoder.finish().unwrap();
            let contents: Vec<_> = items.iter().map(|(_, content)| content.as_deref()).collect();
            assert_eq!(contents, [Some(&b"one"[..]), Some(b""), None]);
        }
    }

    #[test]
    fn what_is_asked_for_twice_is_refused() {
        let ids = [&b"one"[..], b"two", b"one"].map(ObjectId::of);
        assert_eq!(decode_request(&encode_request(&ids[..2])).unwrap(), ids[..2]);
        assert_eq!(decode_request(&encode_request(&ids)), Err(BatchError::Repeated(ids[0])));
    }

    #[test]
    fn lies_are_found() {
        let id = ObjectId::of(b"one");
        for (answer, error) in [
            (found_header(4).to_vec(), BatchError::Length { found: 4, expected: 3 }),
            (vec![7], BatchError::Status(7)),
            ([&MISSING_ITEM[..], &MISSING_ITEM].concat(), BatchError::Count),
        ] {
            let mut decoder = BatchDecoder::new(&[(id, 3)]);
            decoder.push(&answer);
            let seen = std::iter::from_fn(|| decoder.next_item().transpose()).find_map(Result::err);
            assert_eq!(seen, Some(error));
        }
        assert_eq!(BatchDecoder::new(&[(id, 3)]).finish(), Err(BatchError::Count));
        for body in [&[][..], &[0; 31], &[0; 33], &[0; 32 * 4097]] {
            assert_eq!(decode_request(body), Err(BatchError::Request));
        }
        assert_eq!(decode_request(&encode_request([&id])), Ok(vec![id]));
    }
}
