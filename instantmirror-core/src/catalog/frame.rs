//! A delta as a stream of bytes: each node behind its length (32 bits, little-endian), a length of zero
//! at the end, so that a stream that was cut off is never taken for a whole one. Compression is the
//! transport's matter.

use bytes::{Buf, Bytes, BytesMut};

use super::{CatalogError, NODE_BYTES_MAX};

/// Appends one node to a stream.
pub fn put_frame(out: &mut Vec<u8>, node: &[u8]) {
    // A node has at most NODE_BYTES_MAX bytes, which fits.
    out.extend_from_slice(&u32::try_from(node.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(node);
}

/// Appends the end mark.
pub fn put_end(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 4]);
}

/// Takes a stream apart as it arrives. Holds at most one node plus what was pushed last.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: BytesMut,
    ended: bool,
}

impl FrameDecoder {
    /// Adds bytes in the order in which they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole node, or `None` until more bytes are pushed.
    ///
    /// # Errors
    /// [`CatalogError::Frame`] for a length no node has, or bytes after the end mark.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, CatalogError> {
        if self.ended {
            return if self.buffer.is_empty() {
                Ok(None)
            } else {
                Err(CatalogError::Frame("bytes after its end"))
            };
        }
        let Some(&prefix) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes(prefix) as usize;
        if len > NODE_BYTES_MAX {
            return Err(CatalogError::Frame("a length that no node has"));
        }
        if self.buffer.len() < 4 + len {
            return Ok(None);
        }
        self.buffer.advance(4);
        if len == 0 {
            self.ended = true;
            return self.next_frame();
        }
        Ok(Some(self.buffer.split_to(len).freeze()))
    }

    /// To be called when the stream is over.
    ///
    /// # Errors
    /// [`CatalogError::Frame`] if it stopped before its end mark.
    pub fn finish(&self) -> Result<(), CatalogError> {
        if self.ended {
            Ok(())
        } else {
            Err(CatalogError::Frame("it stops before its end"))
        }
    }
}
