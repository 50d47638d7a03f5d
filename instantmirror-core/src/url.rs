//! URLs that may hold secrets: [`SecretUrl`], the one type by which the URLs of masters, trackers and proxies are kept.
//!
//! Invariant: neither `Display` nor `Debug` ever shows a user name, a password, a query or a fragment, whatever the
//! text is, a URL or not. The whole text is to be had by [`exposed`](SecretUrl::exposed) alone.

use std::fmt;

use serde::{Deserialize, Deserializer};

/// A URL as it was written, which shows itself without what may be secret.
///
/// ```
/// use instantmirror_core::url::SecretUrl;
///
/// let url = SecretUrl::from("https://user:pw@master.example.org/pub?key=1".to_owned());
/// assert_eq!(url.to_string(), "https://master.example.org/pub");
/// assert_eq!(url.exposed(), "https://user:pw@master.example.org/pub?key=1");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// The whole text, secrets and all: for those who connect there, never for logs, errors or answers.
    #[must_use]
    pub fn exposed(&self) -> &str {
        &self.0
    }

    /// Whether it names a user, with or without a password.
    #[must_use]
    pub fn has_user(&self) -> bool {
        parts(&self.0).1.is_some()
    }

    /// The same URL without user name and password, but with its query.
    #[must_use]
    pub fn without_user(&self) -> Self {
        match parts(&self.0) {
            (_, None, _) => self.clone(),
            (scheme, Some(_), rest) => Self(format!("{scheme}{rest}")),
        }
    }
}

impl From<String> for SecretUrl {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<SecretUrl> for String {
    /// All of it, as [`exposed`](SecretUrl::exposed).
    fn from(url: SecretUrl) -> Self {
        url.0
    }
}

impl From<&str> for SecretUrl {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl<'de> Deserialize<'de> for SecretUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, user, rest) = parts(&self.0);
        let shown = rest.split(['?', '#']).next().unwrap_or_default();
        // A password may hold an `@` as well. Better too little of a path is shown than the end of a password.
        let shown = match shown.rfind('@') {
            Some(at) if user.is_some() => &shown[at + 1..],
            _ => shown,
        };
        write!(f, "{scheme}{shown}")
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// The scheme with its `://`, the user with the password, and all that follows.
///
/// A password may hold the characters that end an authority, by mistake. So where no host and port stand before the first
/// of them, everything up to the last `@` counts as the user.
fn parts(text: &str) -> (&str, Option<&str>, &str) {
    let (scheme, rest) = match text.find("://") {
        Some(at) if text[..at].bytes().all(is_scheme) => text.split_at(at + 3),
        _ => ("", text),
    };
    let authority = rest.find(['/', '\\', '?', '#']).map_or(rest, |end| &rest[..end]);
    let at = match authority.rfind('@') {
        Some(at) => Some(at),
        None if is_place(authority) => None,
        None => rest.rfind('@'),
    };
    match at {
        Some(at) => (scheme, Some(&rest[..at]), &rest[at + 1..]),
        None => (scheme, None, rest),
    }
}

fn is_scheme(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

/// Whether this can be a host, with or without a port.
fn is_place(authority: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') || !byte.is_ascii();
    let (host, behind) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, behind)) => (address.bytes().all(|byte| byte == b':' || is_name(byte)), behind),
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            (authority[..end].bytes().all(is_name), &authority[end..])
        }
    };
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    host && (behind.is_empty() || behind.strip_prefix(':').is_some_and(is_port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hides_what_is_secret_and_shows_the_rest() {
        for (text, shown) in [
            ("http://master.example.org", "http://master.example.org"),
            ("http://user:pw@host:8080/pub/", "http://host:8080/pub/"),
            ("http://user@host", "http://host"),
            ("http://:pw@host", "http://host"),
            ("https://u:p@w@host/x?token=t#f", "https://host/x"),
            ("http://user:p/w@host/", "http://host/"),
            ("http://user:p?w@host/", "http://host/"),
            ("http://user:p#w@host/", "http://host/"),
            ("http://u:p@[2001:db8::1]:80/a", "http://[2001:db8::1]:80/a"),
            ("http://[2001:db8::1]:80/a@b", "http://[2001:db8::1]:80/a@b"),
            ("http://host/@scope/name", "http://host/@scope/name"),
            ("user:pw@host", "host"),
            ("http://user:p@/w@host/", "http://host/"),
            ("http://user:p@x/w@host/", "http://host/"),
            (
                "udp://t.example:1/announce?passkey=secret",
                "udp://t.example:1/announce",
            ),
            ("", ""),
        ] {
            let url = SecretUrl::from(text);
            assert_eq!(url.to_string(), shown, "{text}");
            assert_eq!(format!("{url:?}"), format!("\"{shown}\""));
            assert_eq!(url.exposed(), text);
        }
        let url = SecretUrl::from("udp://u:p@t.example:1/a?k=1");
        assert!(url.has_user());
        assert_eq!(url.without_user().exposed(), "udp://t.example:1/a?k=1");
        assert!(!url.without_user().has_user());
    }

    proptest! {
        #[test]
        fn no_password_is_ever_shown(password in "[!-~]{1,20}", host in "[a-z]{1,8}(:[0-9]{1,4})?") {
            let url = SecretUrl::from(format!("http://user:SECRET{password}SECRET@{host}/path"));
            prop_assert!(!url.to_string().contains("SECRET"), "{}", url);
        }
    }
}
