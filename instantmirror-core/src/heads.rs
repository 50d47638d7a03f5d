//! The question whether the heads of many repositories have changed: the lines of its body and of its answer
//! (docs/formats/api.md).
//!
//! Both hold a line `REPOSITORY MARK` for each repository, where the mark is the sequence number of its head, 0 if there is
//! no head yet, and `-` if there is no such repository. The question ([`HeadQuestion`]) says what the asker knows, the answer
//! ([`HeadMarks`]) what is so, for those where that is something else. No head is in either: whoever hears of another one
//! asks for it, where a gate in front of the master may have its own mind about each repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::RepoName;

/// Most repositories in one question.
pub const HEADS_MAX: usize = 1024;
/// Longest question or answer: so many lines of the longest name, a blank, 20 digits, `pending` behind another blank, and a
/// line feed.
pub const HEADS_BYTES_MAX: usize = HEADS_MAX * (64 + 1 + 20 + 1 + PENDING.len() + 1);

/// Stands behind the mark of a head that the asker was told of, and does not have yet.
const PENDING: &str = "pending";

/// Where the head of a repository is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeadMark {
    /// There is no such repository.
    Absent,
    /// Its head has this sequence number; 0: there is none yet.
    Sequence(u64),
}

impl fmt::Display for HeadMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("-"),
            Self::Sequence(sequence) => sequence.fmt(f),
        }
    }
}

/// Where the heads of some repositories are.
pub type HeadMarks = BTreeMap<RepoName, HeadMark>;

/// What somebody knows of some repositories, and wants to know otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeadQuestion {
    /// Where the heads are, as far as is known.
    pub known: HeadMarks,
    /// Those of which the asker was told, and whose snapshots it does not have yet.
    pub pending: BTreeSet<RepoName>,
}

/// Why bytes are no head marks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadMarksError {
    /// None, or too many.
    #[error(
        "1 to {HEADS_MAX} lines of a repository and a sequence number are expected; ask for more in several requests"
    )]
    Count,
    /// A line that is none.
    #[error("line {line}: {reason}")]
    Line {
        /// Its number, from 1 on.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The same repository in two lines.
    #[error("line {line}: repository '{repository}' is there twice; name each once")]
    Repeated {
        /// The number of the second line, from 1 on.
        line: usize,
        /// The repository.
        repository: RepoName,
    },
}

impl HeadQuestion {
    /// The bytes of the question.
    #[must_use]
    pub fn encode(&self) -> String {
        let line = |(name, mark): (&RepoName, &HeadMark)| match self.pending.contains(name) {
            true => format!("{name} {mark} {PENDING}\n"),
            false => format!("{name} {mark}\n"),
        };
        self.known.iter().map(line).collect()
    }

    /// Takes a question apart. The last line feed may be missing; nothing else is forgiven.
    ///
    /// # Errors
    /// [`HeadMarksError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HeadMarksError> {
        let mut question = Self::default();
        decode_lines(bytes, |line| {
            let (line, is_pending) = match line.strip_suffix(PENDING).and_then(|line| line.strip_suffix(' ')) {
                Some(line) => (line, true),
                None => (line, false),
            };
            let (repository, mark) = decode_line(line)?;
            if is_pending {
                question.pending.insert(repository.clone());
            }
            Ok((repository, mark))
        })
        .map(|known| Self { known, ..question })
    }
}

/// The bytes of an answer.
#[must_use]
pub fn encode(marks: &HeadMarks) -> String {
    marks.iter().map(|(name, mark)| format!("{name} {mark}\n")).collect()
}

/// Takes an answer apart, as strictly.
///
/// # Errors
/// [`HeadMarksError`].
pub fn decode(bytes: &[u8]) -> Result<HeadMarks, HeadMarksError> {
    decode_lines(bytes, decode_line)
}

fn decode_lines(
    bytes: &[u8],
    mut decode_line: impl FnMut(&str) -> Result<(RepoName, HeadMark), String>,
) -> Result<HeadMarks, HeadMarksError> {
    if bytes.is_empty() || bytes.len() > HEADS_BYTES_MAX {
        return Err(HeadMarksError::Count);
    }
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut marks = HeadMarks::new();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if at == HEADS_MAX {
            return Err(HeadMarksError::Count);
        }
        let number = at + 1;
        let text = std::str::from_utf8(line).map_err(|_| expected());
        let decoded = text.and_then(&mut decode_line);
        let (repository, mark) = decoded.map_err(|reason| HeadMarksError::Line { line: number, reason })?;
        if marks.insert(repository.clone(), mark).is_some() {
            return Err(HeadMarksError::Repeated {
                line: number,
                repository,
            });
        }
    }
    Ok(marks)
}

fn expected() -> String {
    "a repository, a blank, and a sequence number or '-' are expected".to_owned()
}

fn decode_line(line: &str) -> Result<(RepoName, HeadMark), String> {
    let (repository, mark) = line.split_once(' ').ok_or_else(expected)?;
    let repository = repository.parse().map_err(|error| format!("{error}"))?;
    if mark == "-" {
        return Ok((repository, HeadMark::Absent));
    }
    let is_number = !mark.is_empty() && mark.bytes().all(|byte| byte.is_ascii_digit());
    let sequence = mark.parse().ok().filter(|_| is_number);
    Ok((repository, HeadMark::Sequence(sequence.ok_or_else(expected)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(lines: &[(&str, HeadMark)]) -> HeadMarks {
        lines
            .iter()
            .map(|(name, mark)| (name.parse().unwrap(), *mark))
            .collect()
    }

    #[test]
    fn marks_are_a_line_each() {
        let known = marks(&[
            ("debian", HeadMark::Sequence(17)),
            ("fedora", HeadMark::Absent),
            ("new", HeadMark::Sequence(0)),
            ("z", HeadMark::Sequence(u64::MAX)),
        ]);
        let text = encode(&known);
        assert_eq!(text, "debian 17\nfedora -\nnew 0\nz 18446744073709551615\n");
        assert_eq!(decode(text.as_bytes()), Ok(known.clone()));
        assert_eq!(decode(text.trim_end().as_bytes()), Ok(known));
    }

    #[test]
    fn a_question_says_what_the_asker_does_not_have_yet() {
        let question = HeadQuestion {
            known: marks(&[("a", HeadMark::Sequence(1)), ("b", HeadMark::Sequence(2))]),
            pending: BTreeSet::from(["b".parse().unwrap()]),
        };
        let text = question.encode();
        assert_eq!(text, "a 1\nb 2 pending\n");
        assert_eq!(HeadQuestion::decode(text.as_bytes()), Ok(question));
        assert!(decode(text.as_bytes()).is_err(), "no answer does");
        for wrong in [
            "a pending",
            "a 1pending",
            "a 1  pending",
            "a 1 pending pending",
            "a 1 pendin",
            "pending",
        ] {
            assert!(HeadQuestion::decode(wrong.as_bytes()).is_err(), "{wrong}");
        }
        // Whoever would forge two lines by one name cannot.
        let twice = HeadQuestion::decode(b"a 1\na 1 pending").unwrap_err();
        assert!(matches!(twice, HeadMarksError::Repeated { line: 2, .. }), "{twice}");
    }

    #[test]
    fn what_is_no_line_is_refused_with_its_number() {
        for (bytes, said) in [
            (&b""[..], "1 to 1024 lines"),
            (b"\n", "line 1"),
            (b"debian 1\n\n", "line 2"),
            (b"debian", "line 1"),
            (b"debian 1 2", "line 1"),
            (b"debian  1", "line 1"),
            (b" 1", "line 1"),
            (b"debian +1", "line 1"),
            (b"debian -1", "line 1"),
            (b"debian 1\r\n", "line 1"),
            (b"debian 18446744073709551616", "line 1"),
            (b"Debian 1", "line 1"),
            (b"a 1\n../b 1", "line 2"),
            (b"a 1\n\xff 1", "line 2"),
            (b"a 1\nb 1\na 2", "line 3: repository 'a' is there twice"),
        ] {
            let error = decode(bytes).unwrap_err().to_string();
            assert!(error.contains(said), "{bytes:?}: {error}");
        }
    }

    #[test]
    fn as_many_as_are_allowed_fit_and_one_more_does_not() {
        let many = |count: usize| -> HeadMarks {
            let name = |i: usize| format!("{i:064}").parse().unwrap();
            (0..count).map(|i| (name(i), HeadMark::Sequence(u64::MAX))).collect()
        };
        let most = HeadQuestion {
            pending: many(HEADS_MAX).into_keys().collect(),
            known: many(HEADS_MAX),
        };
        let text = most.encode();
        assert_eq!(text.len(), HEADS_BYTES_MAX);
        assert_eq!(HeadQuestion::decode(text.as_bytes()), Ok(most));
        assert_eq!(
            decode(encode(&many(HEADS_MAX + 1)).as_bytes()),
            Err(HeadMarksError::Count)
        );
        let short: String = (0..=HEADS_MAX).map(|i| format!("r{i} 1\n")).collect();
        assert_eq!(decode(short.as_bytes()), Err(HeadMarksError::Count));
    }

    mod random {
        use proptest::prelude::*;

        use super::*;

        proptest! {
            /// Whatever is taken is what `encode` would have written, but for the last line feed.
            #[test]
            fn random_lines_are_refused_or_mean_one_thing(
                bytes in "([ab.A]{0,3}[ -]{0,2}[0-9-]{0,21}( pending)?\n?){0,6}",
            ) {
                if let Ok(taken) = decode(bytes.as_bytes()) {
                    prop_assert_eq!(decode(encode(&taken).as_bytes()), Ok(taken));
                }
                if let Ok(taken) = HeadQuestion::decode(bytes.as_bytes()) {
                    prop_assert_eq!(HeadQuestion::decode(taken.encode().as_bytes()), Ok(taken));
                }
            }

            #[test]
            fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
                let _ = decode(&bytes);
                let _ = HeadQuestion::decode(&bytes);
            }
        }
    }
}
