//! `[http]`: the HTTP server of master and node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use instantmirror_core::RepoName;
use instantmirror_core::address::{AddressBlock, Ipv4Wildcards};
use instantmirror_http::{
    AccessLogFormat, ForwardedBy, HeaderRule, HeaderRuleError, HeaderRules, Limits, TrustedProxies, header_field,
};
use serde::Deserialize;

use super::{LimitsConfig, Report, TimeSpan};

/// Most connections that may be allowed: beyond it no machine has descriptors.
pub(super) const CONNECTIONS_MAX: usize = 1 << 20;

/// `[http]`: where the HTTP server listens, and what it allows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct HttpConfig {
    /// Addresses with ports, plain HTTP/1.1.
    pub listen: Vec<SocketAddr>,
    /// Most connections at a time, plain and encrypted.
    pub max_connections: usize,
    /// A file for a line per request, in the combined format.
    pub access_log: Option<PathBuf>,
    /// What its lines look like.
    pub access_log_format: LogLineFormat,
    /// Proxies that are believed whom they ask for.
    pub trusted_proxies: Vec<AddressBlock>,
    /// The header in which they say it.
    pub proxy_header: ProxyHeaderKind,
    /// Addresses with ports at which they say it by the PROXY protocol instead.
    pub listen_proxy: Vec<SocketAddr>,
    /// Whether pages of other origins may read published trees.
    pub cors: bool,
    /// Header fields of every answer.
    pub headers: BTreeMap<String, String>,
    /// `[[http.rule]]`: header fields of some files.
    #[serde(rename = "rule")]
    pub rules: Vec<HeaderRuleConfig>,
    /// A directory of files of one's own, shown at the root where there is nothing else.
    pub root: Option<PathBuf>,
    /// `[http.tls]`: encrypted connections, HTTP/1.1 and HTTP/2.
    pub tls: Option<TlsConfig>,
    /// `[http.limits]`: what is allowed to clients.
    pub limits: LimitsConfig,
}

/// `[http.tls]`: encrypted connections.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsConfig {
    /// Addresses with ports.
    #[serde(default)]
    pub listen: Vec<SocketAddr>,
    /// Addresses with ports at which trusted proxies pass encrypted connections on, with the PROXY protocol before them.
    #[serde(default)]
    pub listen_proxy: Vec<SocketAddr>,
    /// The certificate with its chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Browsers are told not to come otherwise for so long (HSTS).
    #[serde(default)]
    pub hsts: Option<TimeSpan>,
}

impl TlsConfig {
    /// A certificate with its chain and its private key, PEM. Without an address nothing listens.
    #[must_use]
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            listen: Vec::new(),
            listen_proxy: Vec::new(),
            certificate: certificate.into(),
            key: key.into(),
            hsts: None,
        }
    }
}

/// The form of an access log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LogLineFormat {
    /// As analysers read it.
    #[default]
    Combined,
    /// The same, with cache, duration and bytes that were fetched.
    Extended,
    /// Objects of JSON.
    Json,
}

impl LogLineFormat {
    pub(crate) fn format(self) -> AccessLogFormat {
        match self {
            Self::Combined => AccessLogFormat::Combined,
            Self::Extended => AccessLogFormat::Extended,
            Self::Json => AccessLogFormat::Json,
        }
    }
}

/// The header in which proxies say whom they ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ProxyHeaderKind {
    /// X-Forwarded-For.
    #[default]
    XForwardedFor,
    /// Forwarded (RFC 7239).
    Forwarded,
}

/// `[[http.rule]]`: header fields of the files whose paths match.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HeaderRuleConfig {
    /// Globs of paths in repositories.
    #[serde(deserialize_with = "super::fetch::globs")]
    pub paths: Vec<String>,
    /// The repository, if not all are meant.
    #[serde(default)]
    pub repository: Option<RepoName>,
    /// Content-Type.
    #[serde(default, rename = "type")]
    pub media: Option<String>,
    /// Cache-Control, but for the URLs of snapshots.
    #[serde(default)]
    pub cache: Option<String>,
    /// Other fields.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

impl HeaderRuleConfig {
    /// A rule for paths that match one of these globs. It has to say something: a type, a Cache-Control or other fields.
    pub fn new(paths: impl IntoIterator<Item: Into<String>>) -> Self {
        Self {
            paths: paths.into_iter().map(Into::into).collect(),
            repository: None,
            media: None,
            cache: None,
            headers: BTreeMap::new(),
        }
    }

    fn rule(&self) -> Result<HeaderRule, HeaderRuleError> {
        let mut rule = HeaderRule::new(&self.paths)?;
        if let Some(repository) = &self.repository {
            rule = rule.of(repository.clone());
        }
        if let Some(media) = &self.media {
            rule = rule.with_media(media)?;
        }
        if let Some(cache) = &self.cache {
            rule = rule.with_cache(cache)?;
        }
        for (name, value) in &self.headers {
            rule = rule.with_field(name, value)?;
        }
        Ok(rule)
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8080))],
            max_connections: 10_000,
            access_log: None,
            access_log_format: LogLineFormat::default(),
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeaderKind::default(),
            listen_proxy: Vec::new(),
            cors: true,
            headers: BTreeMap::new(),
            rules: Vec::new(),
            root: None,
            tls: None,
            limits: LimitsConfig::default(),
        }
    }
}

impl HttpConfig {
    /// What the server allows.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.connections_max = self.max_connections;
        limits.addresses = self.limits.addresses();
        limits.header_timeout = self.limits.header_timeout.0;
        limits.idle_timeout = self.limits.idle_timeout.0;
        limits.write_timeout = self.limits.write_timeout.0;
        limits.send_rate_min = self.limits.send_rate_min;
        limits.shutdown_grace = self.limits.shutdown_grace.0;
        limits
    }

    /// Long polls of mirrors that may wait at a time: half of the connections, so that the rest is for readers.
    #[must_use]
    pub fn long_polls_max(&self) -> usize {
        self.max_connections / 2
    }

    /// The proxies that are believed.
    #[must_use]
    pub fn proxies(&self) -> TrustedProxies {
        let header = match self.proxy_header {
            ProxyHeaderKind::XForwardedFor => ForwardedBy::XForwardedFor,
            ProxyHeaderKind::Forwarded => ForwardedBy::Forwarded,
        };
        TrustedProxies::new(self.trusted_proxies.clone(), header)
    }

    /// What is said about header fields.
    ///
    /// # Errors
    /// [`HeaderRuleError`], which cannot be where the configuration was read from a file.
    pub fn header_rules(&self) -> Result<HeaderRules, HeaderRuleError> {
        let mut rules = HeaderRules::default().with_cors(self.cors);
        for (name, value) in &self.headers {
            rules = rules.with_field(name, value)?;
        }
        for rule in &self.rules {
            rules = rules.with_rule(rule.rule()?);
        }
        let hsts = self.tls.as_ref().and_then(|tls| tls.hsts);
        Ok(match hsts {
            Some(hsts) => rules.with_hsts(hsts.0.as_secs()),
            None => rules,
        })
    }

    pub(super) fn paths(&mut self) -> Vec<(String, &mut PathBuf)> {
        let log = self
            .access_log
            .iter_mut()
            .map(|path| ("http.access_log".to_owned(), path));
        let root = self.root.iter_mut().map(|path| ("http.root".to_owned(), path));
        let mut paths: Vec<_> = log.chain(root).collect();
        if let Some(tls) = &mut self.tls {
            paths.push(("http.tls.certificate".to_owned(), &mut tls.certificate));
            paths.push(("http.tls.key".to_owned(), &mut tls.key));
        }
        paths
    }

    /// The ports at which it listens on `0.0.0.0`.
    pub(crate) fn ipv4_wildcards(&self) -> Ipv4Wildcards {
        Ipv4Wildcards::among(self.addresses().iter().map(|(_, address)| address))
    }

    /// The TCP addresses it listens on, with their places.
    pub(super) fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let tls = self.tls.iter().flat_map(|tls| &tls.listen).enumerate();
        let tls = tls.map(|(at, address)| (format!("http.tls.listen.{at}"), *address));
        let plain = self.listen.iter().enumerate();
        let plain = plain.map(|(at, address)| (format!("http.listen.{at}"), *address));
        let proxied = self.listen_proxy.iter().enumerate();
        let proxied = proxied.map(|(at, address)| (format!("http.listen_proxy.{at}"), *address));
        let both = self.tls.iter().flat_map(|tls| &tls.listen_proxy).enumerate();
        let both = both.map(|(at, address)| (format!("http.tls.listen_proxy.{at}"), *address));
        plain.chain(tls).chain(proxied).chain(both).collect()
    }

    /// Rules for one repository need that one.
    pub(super) fn check_repositories<'a>(
        &self,
        names: impl Iterator<Item = &'a RepoName> + Clone,
        report: &mut Report<'_>,
    ) {
        for (at, rule) in self.rules.iter().enumerate() {
            let Some(name) = &rule.repository else { continue };
            if !names.clone().any(|one| one == name) {
                let text = format!("[[http.rule]] repository: there is no repository '{name}' here");
                report.refuse(&format!("http.rule.{at}.repository"), text);
            }
        }
    }

    /// What is wrong with it, if it is of no file.
    pub(crate) fn check_alone(&self) -> Result<(), String> {
        super::check_alone(|report| self.check(report))
    }

    pub(super) fn check(&self, report: &mut Report<'_>) {
        let asked = self.max_connections;
        if !(1..=CONNECTIONS_MAX).contains(&asked) {
            let text = format!("[http] max_connections = {asked}: it must be from 1 to {CONNECTIONS_MAX}");
            report.refuse("http.max_connections", text);
        }
        self.limits.check(report);
        for (name, value) in &self.headers {
            if let Err(error) = header_field(name, value) {
                report.refuse(&format!("http.headers.{name}"), format!("[http] headers: {error}"));
            }
        }
        for (at, rule) in self.rules.iter().enumerate() {
            let place = format!("http.rule.{at}");
            if let Err(error) = rule.rule() {
                report.refuse(&place, format!("[[http.rule]]: {error}"));
            }
            if rule.media.is_none() && rule.cache.is_none() && rule.headers.is_empty() {
                report.refuse(&place, "[[http.rule]] says nothing: give it type, cache or headers");
            }
        }
        let has_proxied = !self.listen_proxy.is_empty() || self.tls.iter().any(|tls| !tls.listen_proxy.is_empty());
        if has_proxied && self.trusted_proxies.is_empty() {
            let text = "[http] listen_proxy takes connections of trusted_proxies alone, and there are none";
            report.refuse("http.listen_proxy", text);
        }
        if self.tls.is_some() {
            report.needs("tls", cfg!(feature = "tls"), "http.tls", "[http.tls]");
        }
        if self
            .tls
            .as_ref()
            .is_some_and(|tls| tls.listen.is_empty() && tls.listen_proxy.is_empty())
        {
            let text = "[http.tls] listen is empty: name an address, or leave the section out";
            report.refuse("http.tls.listen", text);
        }
    }
}
