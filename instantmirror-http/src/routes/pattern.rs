//! [`Pattern`]: the path of a route, taken apart: `/.im/v1/{repository}/objects/{object}`, `/files/{*path}`.
//!
//! Invariant: of two patterns that match one path, either one is more specific than the other, or the table is refused
//! ([`Relation::Ambiguous`]). So the order in which routes were added never decides.

use instantmirror_core::RepoPath;

/// Most parameters of one pattern.
pub(crate) const PARAMETERS_MAX: usize = 8;

/// One component of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    /// Matches itself.
    Literal(Box<str>),
    /// `{name}` matches any one component.
    Parameter(Box<str>),
    /// `{*name}` matches all that is left, one component at least.
    Rest(Box<str>),
}

/// A pattern of paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) segments: Vec<Segment>,
}

/// How two patterns are related.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// No path matches both.
    Disjoint,
    /// The same paths match both.
    Same,
    /// Some or all paths that match one match the other, and one of them is more specific.
    Ordered,
    /// Some paths match both, and each is more specific in another component.
    Ambiguous,
}

impl Pattern {
    /// Takes a pattern apart, or says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text.strip_prefix('/').ok_or("it does not begin with a slash")?;
        if rest.is_empty() {
            return Err("the root is the list of the repositories");
        }
        let segments: Vec<Segment> = rest.split('/').map(Segment::parse).collect::<Result<_, _>>()?;
        let (_, before) = segments.split_last().ok_or("it is empty")?;
        if before.iter().any(|segment| matches!(segment, Segment::Rest(_))) {
            return Err("something stands behind its {*rest}");
        }
        let pattern = Self { segments };
        let mut names: Vec<&str> = pattern.parameters().collect();
        if names.len() > PARAMETERS_MAX {
            return Err("it has more than 8 parameters");
        }
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("two of its parameters have the same name");
        }
        Ok(pattern)
    }

    /// The names of its parameters, in order.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Parameter(name) | Segment::Rest(name) => Some(&**name),
        })
    }

    /// How it is related to another one.
    pub(super) fn relation(&self, other: &Self) -> Relation {
        let (mut ours_is_finer, mut theirs_is_finer) = (false, false);
        let mut pairs = self.segments.iter().zip(&other.segments);
        let ended = pairs.find_map(|pair| match pair {
            (Segment::Literal(ours), Segment::Literal(theirs)) => (ours != theirs).then_some(Relation::Disjoint),
            (Segment::Parameter(_), Segment::Parameter(_)) => None,
            (Segment::Rest(_), Segment::Rest(_)) => Some(Relation::Same),
            (Segment::Literal(_), Segment::Parameter(_)) => {
                ours_is_finer = true;
                None
            }
            (Segment::Parameter(_), Segment::Literal(_)) => {
                theirs_is_finer = true;
                None
            }
            (_, Segment::Rest(_)) => {
                ours_is_finer = true;
                Some(Relation::Ordered)
            }
            (Segment::Rest(_), _) => {
                theirs_is_finer = true;
                Some(Relation::Ordered)
            }
        });
        if ended == Some(Relation::Disjoint) || ended.is_none() && self.segments.len() != other.segments.len() {
            return Relation::Disjoint;
        }
        match (ours_is_finer, theirs_is_finer) {
            (false, false) => Relation::Same,
            (true, true) => Relation::Ambiguous,
            _ => Relation::Ordered,
        }
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(inner) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) else {
            if text.contains(['{', '}']) {
                return Err("a parameter is a whole component, {name}");
            }
            return match RepoPath::new(text) {
                Ok(path) if !path.is_root() => Ok(Self::Literal(text.into())),
                _ => Err("one of its components is none that a path can have"),
            };
        };
        let (name, is_rest) = inner.strip_prefix('*').map_or((inner, false), |name| (name, true));
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        if name.is_empty() || !name.bytes().all(is_name) {
            return Err("the name of a parameter is lower-case letters");
        }
        Ok(if is_rest {
            Self::Rest(name.into())
        } else {
            Self::Parameter(name.into())
        })
    }
}
