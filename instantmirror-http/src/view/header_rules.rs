//! Header fields of the operator's choice: media types and lifetimes by path, fields of every answer, CORS, HSTS.
//!
//! Key decision: rules are about paths inside repositories and not about URLs. Reason: a file has one type, whatever
//! mount, tag or snapshot it is read at. They are compiled once and asked when an answer is made; one that is kept ready
//! has its fields already.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use instantmirror_core::rules::{GlobError, PathGlobs};
use instantmirror_core::{RepoName, RepoPath};

/// Fields that belong to the message itself or that an answer works out: to state them otherwise would make it wrong.
const OWN: [HeaderName; 22] = [
    header::ACCEPT_RANGES,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::DATE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::LOCATION,
    header::STRICT_TRANSPORT_SECURITY,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VARY,
    header::WWW_AUTHENTICATE,
    header::RETRY_AFTER,
    header::ALLOW,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// Why a rule cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderRuleError {
    /// A glob of its paths.
    #[error(transparent)]
    Glob(#[from] GlobError),
    /// A name that no field can have.
    #[error("'{0}' cannot be the name of a header field")]
    Name(String),
    /// A value that would end the field, or worse.
    #[error("'{1}' cannot be the value of the header field {0}")]
    Value(String, String),
    /// A field that answers state by themselves.
    #[error("the header field {0} is worked out for each answer and cannot be set{1}")]
    Own(HeaderName, &'static str),
}

/// Name and value of a field that an operator sets.
///
/// # Errors
/// [`HeaderRuleError`].
pub fn header_field(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), HeaderRuleError> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| HeaderRuleError::Name(name.to_owned()))?;
    let advice = match parsed {
        header::CONTENT_TYPE => "; say `type`",
        header::CACHE_CONTROL => "; say `cache`",
        header::STRICT_TRANSPORT_SECURITY => "; say `hsts` in [http.tls]",
        _ => "",
    };
    if !advice.is_empty() || OWN.contains(&parsed) {
        return Err(HeaderRuleError::Own(parsed, advice));
    }
    let value = header_value(name, value)?;
    Ok((parsed, value))
}

fn header_value(name: &str, value: &str) -> Result<HeaderValue, HeaderRuleError> {
    let refused = || HeaderRuleError::Value(name.to_owned(), value.to_owned());
    let is_text = value.trim() == value && value.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    HeaderValue::from_str(value)
        .ok()
        .filter(|_| is_text)
        .ok_or_else(refused)
}

/// What is said about some files.
#[derive(Debug, Clone)]
pub struct HeaderRule {
    paths: PathGlobs,
    repository: Option<RepoName>,
    media: Option<HeaderValue>,
    cache: Option<HeaderValue>,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderRule {
    /// A rule about the files that match any of these globs (as in `.gitignore`, of paths in repositories).
    ///
    /// # Errors
    /// [`HeaderRuleError::Glob`].
    pub fn new(paths: &[String]) -> Result<Self, HeaderRuleError> {
        Ok(Self {
            paths: PathGlobs::new(paths.iter().map(String::as_str))?,
            repository: None,
            media: None,
            cache: None,
            fields: Vec::new(),
        })
    }

    /// The same for one repository alone.
    #[must_use]
    pub fn of(mut self, repository: RepoName) -> Self {
        self.repository = Some(repository);
        self
    }

    /// Their Content-Type.
    ///
    /// # Errors
    /// [`HeaderRuleError::Value`] for what is no media type.
    pub fn with_media(mut self, media: &str) -> Result<Self, HeaderRuleError> {
        let value = header_value("Content-Type", media)?;
        let kind = media.split(';').next().unwrap_or_default().trim();
        let is_token = |part: &str| !part.is_empty() && !part.contains(['/', ' ', ',', '"', '(', ')']);
        if !kind
            .split_once('/')
            .is_some_and(|(main, sub)| is_token(main) && is_token(sub))
        {
            return Err(HeaderRuleError::Value("Content-Type".to_owned(), media.to_owned()));
        }
        self.media = Some(value);
        Ok(self)
    }

    /// Their Cache-Control, at URLs that may show something else later. Under the URL of a snapshot nothing does.
    ///
    /// # Errors
    /// [`HeaderRuleError::Value`].
    pub fn with_cache(mut self, cache: &str) -> Result<Self, HeaderRuleError> {
        self.cache = Some(header_value("Cache-Control", cache)?);
        Ok(self)
    }

    /// One more field.
    ///
    /// # Errors
    /// [`HeaderRuleError`].
    pub fn with_field(mut self, name: &str, value: &str) -> Result<Self, HeaderRuleError> {
        self.fields.push(header_field(name, value)?);
        Ok(self)
    }
}

/// What an operator says about the header fields of answers.
#[derive(Debug, Clone)]
pub struct HeaderRules {
    rules: Vec<HeaderRule>,
    fields: Vec<(HeaderName, HeaderValue)>,
    cors: bool,
    hsts: Option<HeaderValue>,
    /// The line of `hsts` as it is written.
    hsts_line: Vec<u8>,
}

impl Default for HeaderRules {
    /// Browsers of any origin may read published trees; nothing else is said.
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            fields: Vec::new(),
            cors: true,
            hsts: None,
            hsts_line: Vec::new(),
        }
    }
}

/// What the rules say about one file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    pub(crate) media: Option<HeaderValue>,
    pub(crate) cache: Option<HeaderValue>,
    pub(crate) fields: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderRules {
    /// One more rule. All rules that match a file count; where two say the same, the later one does.
    #[must_use]
    pub fn with_rule(mut self, rule: HeaderRule) -> Self {
        self.rules.push(rule);
        self
    }

    /// A field of every answer.
    ///
    /// # Errors
    /// [`HeaderRuleError`].
    pub fn with_field(mut self, name: &str, value: &str) -> Result<Self, HeaderRuleError> {
        self.fields.push(header_field(name, value)?);
        Ok(self)
    }

    /// Whether pages of other origins may read published trees (CORS).
    #[must_use]
    pub fn with_cors(mut self, allowed: bool) -> Self {
        self.cors = allowed;
        self
    }

    /// Tells browsers on encrypted connections not to come otherwise for so many seconds (HSTS, RFC 6797).
    #[must_use]
    pub fn with_hsts(mut self, seconds: u64) -> Self {
        let text = format!("max-age={seconds}");
        self.hsts_line = format!("strict-transport-security: {text}\r\n").into_bytes();
        self.hsts = HeaderValue::from_str(&text).ok();
        self
    }

    /// What is said about a file.
    pub(crate) fn about(&self, repository: &RepoName, path: &RepoPath) -> Said {
        let mut said = Said::default();
        for rule in &self.rules {
            let is_of = rule.repository.as_ref().is_none_or(|of| of == repository);
            if !is_of || !rule.paths.matches(path) {
                continue;
            }
            said.media = rule.media.clone().or(said.media);
            said.cache = rule.cache.clone().or(said.cache);
            for (name, value) in &rule.fields {
                said.fields.retain(|(other, _)| other != name);
                said.fields.push((name.clone(), value.clone()));
            }
        }
        said
    }

    /// Adds what every answer has.
    pub(crate) fn dress(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.fields {
            if !headers.contains_key(name) {
                headers.insert(name.clone(), value.clone());
            }
        }
    }

    /// Adds what every answer about a published tree has.
    pub(crate) fn dress_tree(&self, headers: &mut HeaderMap) {
        if self.cors {
            let any = HeaderValue::from_static("*");
            // A rule of the operator's comes first.
            for name in [
                header::ACCESS_CONTROL_ALLOW_ORIGIN,
                header::ACCESS_CONTROL_EXPOSE_HEADERS,
            ] {
                headers.entry(name).or_insert_with(|| any.clone());
            }
        }
    }

    /// Adds to the answer to an OPTIONS what a browser asks before it asks.
    pub(crate) fn dress_preflight(&self, headers: &mut HeaderMap, methods: &'static str) {
        if self.cors {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*"));
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
        }
    }

    /// Adds what answers on encrypted connections have.
    pub(crate) fn dress_private(&self, headers: &mut HeaderMap) {
        if let Some(hsts) = &self.hsts {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
    }

    /// The same as lines.
    pub(crate) fn private_lines(&self) -> &[u8] {
        &self.hsts_line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_add_up_and_the_later_one_wins() {
        let globs = |text: &str| vec![text.to_owned()];
        let rules = HeaderRules::default()
            .with_rule(
                HeaderRule::new(&globs("*"))
                    .unwrap()
                    .with_field("X-A", "1")
                    .unwrap()
                    .with_field("X-B", "1")
                    .unwrap(),
            )
            .with_rule(
                HeaderRule::new(&globs("v2/**/manifests/*"))
                    .unwrap()
                    .with_media("application/x+json")
                    .unwrap(),
            )
            .with_rule(
                HeaderRule::new(&globs("v2/"))
                    .unwrap()
                    .of("other".parse().unwrap())
                    .with_cache("no-store")
                    .unwrap(),
            )
            .with_rule(HeaderRule::new(&globs("v2/")).unwrap().with_field("x-a", "2").unwrap());
        let said = rules.about(
            &"images".parse().unwrap(),
            &RepoPath::new("v2/a/manifests/latest").unwrap(),
        );
        assert_eq!(said.media.unwrap(), "application/x+json");
        assert!(said.cache.is_none());
        let fields: Vec<_> = said
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(fields, [("x-b", "1"), ("x-a", "2")]);
        assert!(
            rules
                .about(&"other".parse().unwrap(), &RepoPath::new("v2/x").unwrap())
                .cache
                .is_some()
        );
    }

    #[test]
    fn what_would_make_an_answer_wrong_is_refused() {
        for (name, value) in [
            ("Content-Length", "5"),
            ("transfer-encoding", "chunked"),
            ("Connection", "close"),
            ("ETag", "\"x\""),
            ("Content-Type", "a/b"),
            ("Strict-Transport-Security", "max-age=1"),
            ("X Y", "z"),
            ("", "z"),
            ("X", "a\r\nY: b"),
            ("X", "a\nb"),
            ("X", "\u{e9}"),
            ("X", " a"),
        ] {
            assert!(header_field(name, value).is_err(), "{name}: {value}");
        }
        assert!(header_field("X-Robots-Tag", "noindex").is_ok());
        for media in ["", "text", "text/", "/html", "text/html/x", "te xt/html", "a/b\r\n"] {
            assert!(HeaderRule::new(&[]).unwrap().with_media(media).is_err(), "{media}");
        }
    }
}
