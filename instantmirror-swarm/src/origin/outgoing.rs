//! How connections to masters and trackers are made: [`Outgoing`]. Which proxy a URL is asked by is plain code, with the
//! rules of curl.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use instantmirror_core::address::{AddressBlock, AddressPolicy};
use instantmirror_core::url::SecretUrl;
use reqwest::{ClientBuilder, Proxy, Url};
use rustls::ClientConfig;

use super::PolicyResolver;
use super::tls::{self, reason_of};

/// Schemes of proxies.
const PROXY_SCHEMES: &[&str] = &["http", "https", "socks4", "socks4a", "socks5", "socks5h"];
/// The port of a proxy whose URL has none, as curl has it.
const PROXY_PORT: u16 = 1080;

/// How connections are made: with whom, by which proxy, whom to believe, and as whom.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Outgoing {
    /// Addresses that may be connected to. Behind a proxy that is the proxy's affair, and the proxy itself was named on purpose.
    pub policy: AddressPolicy,
    /// Proxies.
    pub proxies: Proxies,
    /// Certificates of authorities that are believed besides those of the system, PEM.
    pub authorities: Vec<u8>,
    /// Our certificate with its chain, and its private key, PEM.
    pub identity: Option<Vec<u8>>,
}

impl fmt::Debug for Outgoing {
    /// Without the private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("policy", &self.policy)
            .field("proxies", &self.proxies)
            .field("authorities", &self.authorities.len())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

impl Outgoing {
    /// Without proxy, believing the system's authorities.
    #[must_use]
    pub fn to(policy: &AddressPolicy) -> Self {
        Self {
            policy: policy.clone(),
            ..Self::default()
        }
    }

    /// The same without our certificate.
    pub(crate) fn without_identity(&self) -> Self {
        Self {
            identity: None,
            ..self.clone()
        }
    }

    /// Whether connections can be made so.
    ///
    /// # Errors
    /// A text for a person, without secrets.
    pub fn check(&self) -> Result<(), String> {
        let client = self.apply(reqwest::Client::builder(), &self.tls()?);
        client.build().map(drop).map_err(|error| reason_of(&error))
    }

    /// What all connections have in common. It reads the certificates of the system's authorities.
    pub(crate) fn tls(&self) -> Result<ClientConfig, String> {
        tls::config(&self.authorities, self.identity.as_deref())
    }

    pub(crate) fn apply(&self, builder: ClientBuilder, tls: &ClientConfig) -> ClientBuilder {
        let resolver = PolicyResolver {
            policy: self.policy.clone(),
            proxies: self.proxies.hosts(),
        };
        let builder = builder
            .no_proxy()
            .dns_resolver(Arc::new(resolver))
            .tls_backend_preconfigured(tls.clone());
        if self.proxies.is_direct() {
            return builder;
        }
        let proxies = self.proxies.clone();
        builder.proxy(Proxy::custom(move |url| proxies.of(url).cloned()))
    }
}

/// By which proxy what is asked.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    except: Vec<Exception>,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |url: &Option<Url>| url.as_ref().map(|url| SecretUrl::from(url.as_str()));
        f.debug_struct("Proxies")
            .field("http", &shown(&self.http))
            .field("https", &shown(&self.https))
            .field("except", &self.except)
            .finish()
    }
}

/// What is asked without a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    Everything,
    /// A host, and all hosts below it.
    Domain(String),
    Block(AddressBlock),
}

impl Proxies {
    /// Everything by this proxy, with the user name and password in it, if there are any.
    ///
    /// # Errors
    /// A text for a person, without secrets.
    pub fn all(proxy: &SecretUrl) -> Result<Self, String> {
        let proxy = parse(proxy)?;
        Ok(Self {
            http: Some(proxy.clone()),
            https: Some(proxy),
            except: Vec::new(),
        })
    }

    /// The same with this user name and password, whatever the URL of the proxy says.
    #[must_use]
    pub fn with_user(mut self, user: &str, password: &str) -> Self {
        for proxy in [&mut self.http, &mut self.https].into_iter().flatten() {
            // These fail only for URLs without a host.
            let _ = proxy.set_username(user);
            let _ = proxy.set_password(Some(password));
        }
        self
    }

    /// As curl reads the environment: `http_proxy` (lower case only, since servers that run programs put a header of
    /// anybody's into `HTTP_PROXY`), `https_proxy`, `all_proxy`, `no_proxy`, the last three in either case. Empty ones count
    /// as not set. No host is excepted by itself, not even this machine.
    ///
    /// # Errors
    /// A text for a person, without secrets, that names the variable.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let find = |names: &[&'static str]| {
            let set = |name: &&'static str| Some((*name, variable(name).filter(|value| !value.trim().is_empty())?));
            names.iter().find_map(set)
        };
        let proxy = |names: &[&'static str]| match find(names) {
            None => Ok(None),
            Some((name, value)) => {
                let url =
                    parse(&SecretUrl::from(value)).map_err(|error| format!("{name} in the environment: {error}"))?;
                Ok::<_, String>(Some(url))
            }
        };
        let all = proxy(&["all_proxy", "ALL_PROXY"])?;
        let except = find(&["no_proxy", "NO_PROXY"]).map_or_else(Vec::new, |(_, list)| exceptions(&list));
        Ok(Self {
            http: proxy(&["http_proxy"])?.or_else(|| all.clone()),
            https: proxy(&["https_proxy", "HTTPS_PROXY"])?.or(all),
            except,
        })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.http.is_none() && self.https.is_none()
    }

    /// Whether this is asked by one of them.
    #[must_use]
    pub fn serve(&self, url: &SecretUrl) -> bool {
        Url::parse(url.exposed()).is_ok_and(|url| self.of(&url).is_some())
    }

    /// Their host names.
    fn hosts(&self) -> Vec<String> {
        let all = [&self.http, &self.https].into_iter().flatten();
        all.filter_map(Url::host_str).map(str::to_owned).collect()
    }

    /// The proxy by which this is asked.
    pub(crate) fn of(&self, url: &Url) -> Option<&Url> {
        let proxy = if url.scheme() == "https" {
            &self.https
        } else {
            &self.http
        };
        let host = url.host_str()?.trim_matches(['[', ']']).trim_end_matches('.');
        let address: Option<IpAddr> = host.parse().ok();
        let is_excepted = |exception: &Exception| match (exception, address) {
            (Exception::Everything, _) => true,
            (Exception::Block(block), Some(address)) => block.contains(address),
            (Exception::Domain(domain), None) => {
                let below = host.len().checked_sub(domain.len()).map(|at| host.split_at(at));
                below.is_some_and(|(before, end)| {
                    end.eq_ignore_ascii_case(domain) && (before.is_empty() || before.ends_with('.'))
                })
            }
            _ => false,
        };
        proxy.as_ref().filter(|_| !self.except.iter().any(is_excepted))
    }
}

/// `http` where there is no scheme, [`PROXY_PORT`] where there is no port.
fn parse(proxy: &SecretUrl) -> Result<Url, String> {
    let text = proxy.exposed().trim();
    let text = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let wrong = || format!("'{proxy}' is no proxy: write one like http://proxy.example.org:3128");
    let mut url = Url::parse(&text).map_err(|_| wrong())?;
    if !PROXY_SCHEMES.contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
        return Err(wrong());
    }
    // The URL parser takes the default port of a scheme out.
    let has_port = url.port().is_some() || text.trim_end_matches('/').ends_with(":80");
    if !has_port && url.scheme() != "https" {
        url.set_port(Some(PROXY_PORT)).map_err(|()| wrong())?;
    }
    Ok(url)
}

/// The list of `no_proxy`: hosts with all below them, addresses, blocks; `*` alone is everything.
fn exceptions(list: &str) -> Vec<Exception> {
    if list.trim() == "*" {
        return vec![Exception::Everything];
    }
    let entries = list.split(|c: char| c == ',' || c.is_whitespace());
    let entries = entries.map(|entry| entry.trim_start_matches('.').trim_end_matches('.'));
    let exception = |entry: &str| match entry.trim_matches(['[', ']']).parse::<AddressBlock>() {
        Ok(block) => Exception::Block(block),
        Err(_) => Exception::Domain(entry.to_owned()),
    };
    entries.filter(|entry| !entry.is_empty()).map(exception).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(set: &[(&str, &str)]) -> Proxies {
        let found = |name: &str| {
            set.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        Proxies::from_environment(found).unwrap()
    }

    fn of(proxies: &Proxies, url: &str) -> Option<String> {
        proxies.of(&Url::parse(url).unwrap()).map(ToString::to_string)
    }

    #[test]
    fn the_environment_is_read_as_curl_does() {
        let proxies = environment(&[
            ("HTTP_PROXY", "http://header-of-anybody:1"),
            ("HTTPS_PROXY", "secure.example"),
            ("ALL_PROXY", "socks5h://u:p@all.example:9"),
        ]);
        assert_eq!(of(&proxies, "http://h/").unwrap(), "socks5h://u:p@all.example:9");
        assert_eq!(of(&proxies, "https://h/").unwrap(), "http://secure.example:1080/");
        let proxies = environment(&[
            ("http_proxy", "http://one:80"),
            ("https_proxy", " "),
            ("HTTPS_PROXY", "https://two"),
        ]);
        assert_eq!(of(&proxies, "http://h/").unwrap(), "http://one/");
        assert_eq!(of(&proxies, "https://h/").unwrap(), "https://two/");
        // This machine is no exception.
        assert!(of(&proxies, "http://127.0.0.1/").is_some() && of(&proxies, "http://localhost/").is_some());
        assert!(environment(&[]).is_direct());
        let wrong = Proxies::from_environment(|name| (name == "all_proxy").then(|| "ftp://u:SECRET@p".to_owned()));
        let wrong = wrong.unwrap_err();
        assert!(wrong.contains("all_proxy") && !wrong.contains("SECRET"), "{wrong}");
    }

    #[test]
    fn exceptions_are_hosts_with_those_below_addresses_and_blocks() {
        let list = "example.org, .dot.example. 192.0.2.0/24,[2001:db8::1] 198.51.100.7";
        let proxies = environment(&[("all_proxy", "p:1"), ("no_proxy", list), ("NO_PROXY", "*")]);
        for direct in [
            "http://example.org/",
            "https://www.EXAMPLE.org:8/",
            "http://example.org./",
            "http://dot.example/",
            "http://a.dot.example/",
            "http://192.0.2.9/",
            "http://[2001:db8::1]:3/",
            "http://198.51.100.7/",
        ] {
            assert_eq!(of(&proxies, direct), None, "{direct}");
        }
        for proxied in [
            "http://notexample.org/",
            "http://org/",
            "http://192.0.3.1/",
            "http://[2001:db8::2]/",
        ] {
            assert!(of(&proxies, proxied).is_some(), "{proxied}");
        }
        let everything = environment(&[("all_proxy", "p:1"), ("NO_PROXY", "*")]);
        assert_eq!(of(&everything, "http://h/"), None);
    }

    #[test]
    fn secrets_are_not_shown() {
        let proxies = Proxies::all(&SecretUrl::from("http://u:SECRET@p:3128")).unwrap();
        let outgoing = Outgoing {
            proxies,
            identity: Some(b"SECRET".to_vec()),
            ..Outgoing::default()
        };
        let shown = format!("{outgoing:?} {}", outgoing.check().unwrap_err());
        assert!(!shown.contains("SECRET") && !shown.contains("83, 69"), "{shown}");
    }
}
