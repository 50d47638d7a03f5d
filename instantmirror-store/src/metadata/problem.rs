//! What is wrong with the metadata of a tree, in words for the one who made it.

use std::fmt;

use instantmirror_core::RepoPath;

/// How many problems are told one by one; the others are counted.
pub const PROBLEMS_LISTED_MAX: usize = 20;
/// Characters of a name from metadata that a message repeats.
const NAME_CHARS_MAX: usize = 300;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The metadata file that says something else than the tree.
    pub metadata: RepoPath,
    /// What is wrong.
    pub fault: Fault,
}

/// In what way a tree is not what its metadata says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A file is named and not there.
    Missing {
        /// The name.
        name: String,
    },
    /// A file has another size.
    Size {
        /// The name.
        name: String,
        /// Bytes that it has.
        is: u64,
        /// Bytes that are stated.
        stated: u64,
    },
    /// A file has the size that is stated, and another content.
    Digest {
        /// The name.
        name: String,
        /// The hash function.
        kind: &'static str,
    },
    /// The metadata itself cannot be made sense of.
    Unreadable {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.metadata)?;
        match &self.fault {
            Fault::Missing { name } => write!(f, "names {}, which is missing", shown(name)),
            Fault::Size { name, is, stated } => {
                write!(f, "names {}, which has {is} bytes instead of {stated}", shown(name))
            }
            Fault::Digest { name, kind } => write!(f, "names {}, which has another {kind}", shown(name)),
            Fault::Unreadable { reason } => write!(f, "{}", shown(reason)),
        }
    }
}

/// Cut, and without what would confuse a terminal.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for char in text.chars().take(NAME_CHARS_MAX) {
        match char {
            char if char.is_control() => shown.extend(char.escape_debug()),
            char => shown.push(char),
        }
    }
    shown
}

/// All that is wrong: the first ones by name, the others counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    listed: Vec<Problem>,
    count: u64,
}

impl Problems {
    /// Adds one.
    pub fn add(&mut self, metadata: &RepoPath, fault: Fault) {
        self.count += 1;
        if self.listed.len() < PROBLEMS_LISTED_MAX {
            self.listed.push(Problem {
                metadata: metadata.clone(),
                fault,
            });
        }
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first [`PROBLEMS_LISTED_MAX`].
    #[must_use]
    pub fn listed(&self) -> &[Problem] {
        &self.listed
    }
}

/// One a line, and how many there are besides.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.listed {
            write!(f, "\n  {problem}")?;
        }
        match self.count - self.listed.len() as u64 {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}
