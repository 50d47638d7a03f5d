//! [`BuildError`]: the error of all builders, so that embedders handle one type.

/// Why nothing can be built of what a builder was given. `field` is the method that it was given to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Something has no default and was not given.
    #[error("{field} is missing: {advice}")]
    Missing {
        /// Whose.
        field: String,
        /// The advice.
        advice: String,
    },
    /// A value cannot be used.
    #[error("{field} '{value}': {advice}")]
    Invalid {
        /// Where it was given.
        field: String,
        /// The value, without secrets.
        value: String,
        /// The fault, and a right value.
        advice: String,
    },
    /// Two values exclude each other.
    #[error("{field} and {other} exclude each other: {advice}")]
    Contradiction {
        /// One of them.
        field: String,
        /// The other one.
        other: String,
        /// The advice.
        advice: String,
    },
}

impl BuildError {
    pub(crate) fn missing(field: impl Into<String>, advice: impl Into<String>) -> Self {
        let (field, advice) = (field.into(), advice.into());
        Self::Missing { field, advice }
    }

    pub(crate) fn invalid(field: impl Into<String>, value: impl ToString, advice: impl ToString) -> Self {
        let (field, value, advice) = (field.into(), value.to_string(), advice.to_string());
        Self::Invalid { field, value, advice }
    }

    pub(crate) fn contradiction(field: &str, other: &str, advice: &str) -> Self {
        Self::Contradiction {
            field: field.to_owned(),
            other: other.to_owned(),
            advice: advice.to_owned(),
        }
    }

    /// The same for settings that check themselves: what they say names the key.
    pub(crate) fn of_settings(field: impl Into<String>, checked: Result<(), String>) -> Result<(), Self> {
        checked.map_err(|advice| Self::invalid(field, "(settings)", advice))
    }
}
