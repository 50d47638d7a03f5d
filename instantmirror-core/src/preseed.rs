//! What to fetch ahead of demand, and in which order: the rules of the operator, the advice of the master, what is read
//! much, and the rest.

use crate::RepoPath;
use crate::rules::{GlobError, PathGlobs};
use crate::traits::Class;

/// The rules for one repository.
///
/// ```
/// use instantmirror_core::RepoPath;
/// use instantmirror_core::preseed::{PreseedRules, Step};
/// use instantmirror_core::traits::Class;
///
/// let rules = PreseedRules::new(["*.iso", "pool/"], ["*-debug*"])?.with_rest(true);
/// let step = |path: &str| rules.step(&RepoPath::new(path).unwrap(), || false);
/// assert_eq!(step("images/a.iso"), Some(Step { class: Class::Preseed, rank: 0 }));
/// assert_eq!(step("pool/a.deb"), Some(Step { class: Class::Preseed, rank: 1 }));
/// assert_eq!(step("pool/a-debug.deb"), None);
/// assert_eq!(step("README"), Some(Step { class: Class::Rest, rank: 0 }));
/// # Ok::<(), instantmirror_core::rules::GlobError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PreseedRules {
    first: Vec<PathGlobs>,
    never: PathGlobs,
    suggested: Vec<PathGlobs>,
    popular: bool,
    rest: bool,
}

/// One step of the order in which files are fetched ahead. The smallest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step {
    /// Its class.
    pub class: Class,
    /// Which rule of the class.
    pub rank: u32,
}

impl Step {
    /// The first step of a class.
    #[must_use]
    pub const fn of(class: Class) -> Self {
        Self { class, rank: 0 }
    }
}

impl PreseedRules {
    /// Fetches what `first` matches, in its order, and nothing that `never` matches.
    ///
    /// # Errors
    /// [`GlobError`] for the first glob that is none.
    pub fn new<T: Into<String>, U: Into<String>>(
        first: impl IntoIterator<Item = T>,
        never: impl IntoIterator<Item = U>,
    ) -> Result<Self, GlobError> {
        Ok(Self {
            first: one_by_one(first)?,
            never: PathGlobs::new(never)?,
            ..Self::default()
        })
    }

    /// After that what the master advises, in its order.
    ///
    /// # Errors
    /// [`GlobError`] for the first glob that is none.
    pub fn with_suggested<T: Into<String>>(mut self, globs: impl IntoIterator<Item = T>) -> Result<Self, GlobError> {
        self.suggested = one_by_one(globs)?;
        Ok(self)
    }

    /// After that what is new in directories that are read much.
    #[must_use]
    pub fn with_popular(mut self, popular: bool) -> Self {
        self.popular = popular;
        self
    }

    /// After that everything.
    #[must_use]
    pub fn with_rest(mut self, rest: bool) -> Self {
        self.rest = rest;
        self
    }

    /// The step in which a file is fetched; `None` if it is not fetched ahead. `is_popular` is asked only where that
    /// decides.
    #[must_use]
    pub fn step(&self, path: &RepoPath, is_popular: impl FnOnce() -> bool) -> Option<Step> {
        if self.never.matches(path) {
            return None;
        }
        let position = |globs: &[PathGlobs]| globs.iter().position(|glob| glob.matches(path));
        let ranked = |class| {
            move |rank: usize| Step {
                class,
                rank: u32::try_from(rank).unwrap_or(u32::MAX),
            }
        };
        position(&self.first)
            .map(ranked(Class::Preseed))
            .or_else(|| position(&self.suggested).map(ranked(Class::Suggested)))
            .or_else(|| (self.popular && is_popular()).then_some(0).map(ranked(Class::Popular)))
            .or_else(|| self.rest.then_some(0).map(ranked(Class::Rest)))
    }

    /// All steps that there are, in their order.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let ranks =
            |class, count: usize| (0..u32::try_from(count).unwrap_or(u32::MAX)).map(move |rank| Step { class, rank });
        ranks(Class::Preseed, self.first.len())
            .chain(ranks(Class::Suggested, self.suggested.len()))
            .chain(ranks(Class::Popular, usize::from(self.popular)))
            .chain(ranks(Class::Rest, usize::from(self.rest)))
            .collect()
    }

    /// The rule of a step as it was written, for logs and status pages.
    #[must_use]
    pub fn text(&self, step: Step) -> &str {
        let globs = match step.class {
            Class::Preseed => &self.first,
            Class::Suggested => &self.suggested,
            other => return other.name(),
        };
        let glob = usize::try_from(step.rank).ok().and_then(|rank| globs.get(rank));
        glob.and_then(|glob| glob.texts().first()).map_or("", String::as_str)
    }

    /// Whether a file is never fetched ahead.
    #[must_use]
    pub fn is_never(&self, path: &RepoPath) -> bool {
        self.never.matches(path)
    }
}

fn one_by_one<T: Into<String>>(globs: impl IntoIterator<Item = T>) -> Result<Vec<PathGlobs>, GlobError> {
    globs.into_iter().map(|glob| PathGlobs::new([glob])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_in_the_order_of_the_rules_and_each_file_in_its_first() {
        let rules = PreseedRules::new(["repodata/", "*.iso"], ["*.src.rpm"])
            .unwrap()
            .with_suggested(["*.rpm", "*.iso"])
            .unwrap()
            .with_popular(true)
            .with_rest(true);
        let steps = rules.steps();
        assert!(steps.is_sorted() && steps.len() == 6);
        let texts: Vec<_> = steps.iter().map(|step| rules.text(*step)).collect();
        assert_eq!(texts, ["repodata/", "*.iso", "*.rpm", "*.iso", "popular", "rest"]);
        for (path, popular, place) in [
            ("repodata/x.iso", true, Some(0)),
            ("a/b.iso", false, Some(1)),
            ("a/b.rpm", true, Some(2)),
            ("a/b.src.rpm", true, None),
            ("a/b", true, Some(4)),
            ("a/b", false, Some(5)),
        ] {
            let step = rules.step(&RepoPath::new(path).unwrap(), || popular);
            assert_eq!(step, place.map(|place: usize| steps[place]), "{path}");
        }
        let nothing = PreseedRules::default();
        assert_eq!(nothing.step(&RepoPath::new("a").unwrap(), || true), None);
        assert!(nothing.steps().is_empty());
    }
}
