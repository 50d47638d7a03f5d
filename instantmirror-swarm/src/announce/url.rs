//! Where a tracker is.

use std::fmt;
use std::str::FromStr;

use instantmirror_core::url::SecretUrl;
use reqwest::Url;

/// The longest URL of a tracker that is taken.
const URL_BYTES_MAX: usize = 2048;

/// Why a text is no URL of a tracker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{url}' is no tracker: {why}")]
pub struct TrackerUrlError {
    /// As far as it can be shown.
    pub url: String,
    /// What is wrong.
    pub why: String,
}

/// The URL of a tracker: `http://`, `https://` or `udp://`, the latter with its port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackerUrl(Url);

impl TrackerUrl {
    /// Whether it is asked by UDP.
    #[must_use]
    pub fn is_udp(&self) -> bool {
        self.0.scheme() == "udp"
    }

    /// The URL itself.
    pub(super) fn url(&self) -> &Url {
        &self.0
    }

    /// Host and port, as a resolver takes them.
    pub(super) fn place(&self) -> (&str, u16) {
        let host = self.0.host_str().unwrap_or_default();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        (host, self.0.port_or_known_default().unwrap_or_default())
    }
}

impl FromStr for TrackerUrl {
    type Err = TrackerUrlError;

    fn from_str(text: &str) -> Result<Self, TrackerUrlError> {
        let wrong = |why: &str| TrackerUrlError {
            url: crate::text::shown(SecretUrl::from(text).to_string().as_bytes(), 128),
            why: why.to_owned(),
        };
        if text.len() > URL_BYTES_MAX {
            return Err(wrong("it is longer than 2048 bytes"));
        }
        let mut url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https" | "udp") {
            return Err(wrong("it begins with none of http://, https:// and udp://"));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(wrong("it names no host"));
        }
        if url.port_or_known_default().is_none_or(|port| port == 0) {
            return Err(wrong("it names no port"));
        }
        url.set_fragment(None);
        Ok(Self(url))
    }
}

impl fmt::Display for TrackerUrl {
    /// Without user, password and query, which may be secrets of an account.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SecretUrl::from(self.0.as_str()).fmt(f)
    }
}

impl fmt::Debug for TrackerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrackerUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trackers_are_http_or_udp_with_a_port() {
        for (text, place, is_udp) in [
            ("http://tracker.example/announce", ("tracker.example", 80), false),
            (
                "https://tracker.example/announce?passkey=1",
                ("tracker.example", 443),
                false,
            ),
            ("http://[::1]:6969/announce", ("::1", 6969), false),
            ("udp://192.0.2.1:1337/announce", ("192.0.2.1", 1337), true),
            ("udp://[2001:db8::1]:1337", ("2001:db8::1", 1337), true),
        ] {
            let url: TrackerUrl = text.parse().unwrap();
            assert_eq!((url.place(), url.is_udp()), (place, is_udp));
        }
        for (text, why) in [
            ("udp://tracker.example/announce", "no port"),
            ("udp://tracker.example:0", "no port"),
            ("wss://tracker.example/", "none of"),
            ("file:///etc/passwd", "none of"),
            ("udp:tracker.example:80", "no host"),
            ("tracker.example:80/announce", "none of"),
            ("http://", "empty host"),
            ("", "relative"),
            (&format!("http://x/{}", "y".repeat(2048)), "longer"),
        ] {
            let error = text.parse::<TrackerUrl>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let url: TrackerUrl = "https://me:word@t.example/a?passkey=1#x".parse().unwrap();
        assert_eq!(url.to_string(), "https://t.example/a");
        assert_eq!(url.url().query(), Some("passkey=1"));
    }
}
