//! What is remembered of the last tree that was found good, as a file: a line that states version and root node, then
//! one line per metadata file and per index that it leads to, fields separated by tabs, which no path holds.

use std::fmt::Write as _;
use std::str::FromStr as _;

use instantmirror_core::{NodeId, RepoPath};

const PREFIX: &str = "instantmirror checked 1 ";

/// A tree whose metadata agrees with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The root node of its catalog.
    pub root: NodeId,
    /// The metadata in it.
    pub found: Vec<Found>,
}

/// A metadata file with which a check begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its path.
    pub path: RepoPath,
    /// The indices of packages that it leads to.
    pub indices: Vec<Index>,
}

/// An index of packages: `primary.xml`, `Packages`, `Sources`, however compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Where it really lies.
    pub path: RepoPath,
    /// Some of the files that it names were found by way of a symlink, or outside of its repository.
    pub is_indirect: bool,
    /// Directories in which, at any depth, all files lie that it names.
    pub regions: Vec<RepoPath>,
}

/// Why a text is not what [`Known::encode`] writes. Whoever meets it checks everything anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {0} is not what it should be")]
pub struct KnownError(pub usize);

impl Known {
    /// The text of the file.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = format!("{PREFIX}{}\n", self.root);
        // Writing to a string cannot fail.
        for found in &self.found {
            let _ = writeln!(text, "metadata\t{}", found.path);
            for index in &found.indices {
                let way = if index.is_indirect { "indirect" } else { "direct" };
                let _ = write!(text, "index\t{}\t{way}", index.path);
                for region in &index.regions {
                    let _ = write!(text, "\t/{region}");
                }
                text.push('\n');
            }
        }
        text
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`KnownError`], also for a file that was cut short within a line.
    pub fn decode(text: &str) -> Result<Self, KnownError> {
        let body = text.strip_suffix('\n').ok_or(KnownError(1))?;
        let mut lines = body.split('\n');
        let root = lines.next().and_then(|line| line.strip_prefix(PREFIX));
        let root = root.and_then(|root| NodeId::from_str(root).ok()).ok_or(KnownError(1))?;
        let mut known = Self {
            root,
            found: Vec::new(),
        };
        for (at, line) in lines.enumerate() {
            known.take_line(line).ok_or(KnownError(at + 2))?;
        }
        Ok(known)
    }

    fn take_line(&mut self, line: &str) -> Option<()> {
        let path = |text: &str| RepoPath::new(text).ok();
        let mut fields = line.split('\t');
        match fields.next()? {
            "metadata" => {
                let path = path(fields.next()?)?;
                let indices = Vec::new();
                self.found.push(Found { path, indices });
                fields.next().is_none().then_some(())
            }
            "index" => {
                let index = Index {
                    path: path(fields.next()?)?,
                    is_indirect: match fields.next()? {
                        "indirect" => true,
                        "direct" => false,
                        _ => return None,
                    },
                    regions: fields
                        .map(|field| path(field.strip_prefix('/')?))
                        .collect::<Option<_>>()?,
                };
                self.found.last_mut()?.indices.push(index);
                Some(())
            }
            _ => None,
        }
    }
}
