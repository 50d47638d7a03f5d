//! XML from outside, event by event: one element at a time is held, and none is longer or deeper than any real one.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

/// Most bytes of one tag or one run of text.
const EVENT_BYTES_MAX: usize = 16 << 20;
/// How deep elements may be nested.
const DEPTH_MAX: usize = 64;

/// Gives out so many bytes, then an error, until it is told that the next event begins.
struct Rationed<R> {
    inner: R,
    left: usize,
}

impl<R: BufRead> Read for Rationed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let read = available.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Rationed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Err(io::Error::other(format!(
                "one element has more than {EVENT_BYTES_MAX} bytes"
            )));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.left = self.left.saturating_sub(amount);
        self.inner.consume(amount);
    }
}

/// What was read.
pub(super) enum Part<'a> {
    /// An element begins. `depth` is 1 for the outermost one.
    Start { depth: usize, tag: Tag<'a> },
    /// Text inside the element that began last.
    Text(Cow<'a, str>),
    /// The element at this depth ends.
    End { depth: usize },
}

/// The tag with which an element begins.
pub(super) struct Tag<'a>(BytesStart<'a>);

impl Tag<'_> {
    /// Its name without a namespace prefix.
    pub(super) fn name(&self) -> String {
        self.0.local_name().as_ref().to_owned()
    }

    /// An attribute by its name as it is written, unescaped; `None` if it is not there or makes no sense.
    pub(super) fn attribute(&self, name: &str) -> Option<String> {
        let attribute = self.0.try_get_attribute(name).ok()??;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).ok()?;
        Some(value.into_owned())
    }
}

/// Reads the parts of a document one after the other.
pub(super) struct XmlParts<R> {
    reader: Reader<Rationed<R>>,
    buffer: Vec<u8>,
    depth: usize,
    /// The outermost element has ended.
    is_whole: bool,
}

impl<R: BufRead> XmlParts<R> {
    pub(super) fn new(content: R) -> Self {
        let mut reader = Reader::from_reader(Rationed {
            inner: content,
            left: EVENT_BYTES_MAX,
        });
        let config = reader.config_mut();
        // An empty element begins and ends like any other.
        config.expand_empty_elements = true;
        config.check_end_names = true;
        Self {
            reader,
            buffer: Vec::new(),
            depth: 0,
            is_whole: false,
        }
    }

    /// The next part; `None` at the end of a document that is whole. The error is for people.
    pub(super) fn next(&mut self) -> Result<Option<Part<'_>>, String> {
        loop {
            self.buffer.clear();
            self.reader.get_mut().left = EVENT_BYTES_MAX;
            let position = self.reader.buffer_position();
            // The borrow checker cannot see that a part that is returned ends the loop.
            let event = self.reader.read_event_into(&mut self.buffer);
            let event = event.map_err(|error| format!("no XML near byte {position}: {error}"))?;
            match event {
                Event::Start(_) if self.depth >= DEPTH_MAX => {
                    return Err(format!(
                        "elements are nested more than {DEPTH_MAX} deep near byte {position}"
                    ));
                }
                Event::Start(tag) => {
                    self.depth += 1;
                    let tag = Tag(tag.into_owned());
                    return Ok(Some(Part::Start { depth: self.depth, tag }));
                }
                Event::End(_) => {
                    let depth = self.depth;
                    self.depth = self.depth.saturating_sub(1);
                    self.is_whole = self.depth == 0;
                    return Ok(Some(Part::End { depth }));
                }
                Event::Text(text) => return Ok(Some(Part::Text(text.xml10_content().into_owned().into()))),
                Event::Eof if self.is_whole => return Ok(None),
                Event::Eof => return Err(format!("it ends at byte {position}, within an element")),
                _ => {}
            }
        }
    }
}
