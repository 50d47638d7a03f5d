//! One case of the table: a name, the bytes that go over the wire, and what is expected of our answer.
//!
//! A theme file writes cases as rows of a name and what is special about it; everything a row does not say is decided
//! here, so that a row stays one line. What of it differs from nginx is explained below the rows, reason by reason.

/// What our server may do with a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The same as nginx, or a refusal (4xx and the connection closed) where nginx is more generous.
    Same,
    /// Something else on purpose: exactly this outcome (see [`crate::wire::Outcome`]), for this reason.
    Explained { ours: &'static str, why: &'static str },
}

/// An outcome of ours that differs from nginx's, the reason, and the names of the cases it holds for.
pub(crate) type Explanation = (&'static str, &'static str, &'static [&'static str]);

/// The cases of a theme with its explanations; each must name cases that are there.
pub(crate) fn explained(mut cases: Vec<Case>, explanations: &[Explanation]) -> Vec<Case> {
    for (ours, why, names) in explanations {
        for name in *names {
            let case = cases.iter_mut().find(|case| case.name == *name);
            let case = case.unwrap_or_else(|| panic!("an explanation names a case that is not there: {name}"));
            assert_eq!(case.expected, Expected::Same, "explained twice: {name}");
            case.expected = Expected::Explained { ours, why };
        }
    }
    cases
}

/// What of a 200 is compared beyond its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Every byte: it is a file.
    Bytes,
    /// Nothing: it is a page that each server writes in its own way.
    Page,
}

/// One request, or several in a row on one connection, as raw bytes.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// What is sent. `{etag}` stands for each server's own entity tag of [`crate::world::KILO`].
    pub(crate) bytes: Vec<u8>,
    /// Which answers, counted from 0 without interim ones, belong to a HEAD and so have no body.
    pub(crate) heads: Vec<usize>,
    pub(crate) content: Content,
    /// How many bytes go into one segment; `None`: all at once.
    pub(crate) segment: Option<usize>,
    pub(crate) expected: Expected,
}

impl Case {
    /// These bytes and nothing else.
    pub(crate) fn raw(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let heads = if bytes.starts_with(b"HEAD ") {
            vec![0]
        } else {
            Vec::new()
        };
        Self {
            name: name.into(),
            bytes,
            heads,
            content: Content::Bytes,
            segment: None,
            expected: Expected::Same,
        }
    }

    /// A whole HTTP/1.1 request without body; `lines` are header lines, each with its CRLF.
    pub(crate) fn request(name: impl Into<String>, method: &str, target: &str, lines: &str) -> Self {
        let bytes = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        Self::raw(name, bytes)
    }

    /// A GET of a file with one more header line.
    pub(crate) fn get(name: impl Into<String>, target: &str, line: &str) -> Self {
        let end = if line.is_empty() { "" } else { "\r\n" };
        Self::request(name, "GET", target, &format!("{line}{end}"))
    }

    /// The answer with this number belongs to a HEAD.
    pub(crate) fn head_at(mut self, answer: usize) -> Self {
        self.heads.push(answer);
        self
    }

    /// A 200 holds a page, not a file.
    pub(crate) fn page(mut self) -> Self {
        self.content = Content::Page;
        self
    }

    /// Sent in segments of so many bytes.
    pub(crate) fn in_segments_of(mut self, bytes: usize) -> Self {
        self.segment = Some(bytes);
        self
    }
}
