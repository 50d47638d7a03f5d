//! A master that sends us elsewhere (RFC 9110, 15.4): followed, and told to the operator.
//!
//! All requests of ours mean the same wherever they are sent, so a POST stays a POST, also after 301 and 302. Never
//! followed is a way from https to http, or to an address that the configuration does not admit. What says who we are (a
//! token, a user name with its password, a client's certificate) goes to the host alone that the configuration names. A master
//! that has moved for good (301, 308) is asked at its new place from then on, until that one fails.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use instantmirror_core::traits::TransportError;
use instantmirror_core::url::SecretUrl;
use percent_encoding::percent_decode_str;
use reqwest::{Client, Method, Request, RequestBuilder, Response, StatusCode, Url, header};
use tokio::time::{Instant, timeout_at};

use super::connect::Lane;
use super::{HttpOrigin, Moved, address_of, lock, reason_of};

/// Redirects that are followed for one request.
pub(super) const REDIRECTS_MAX: usize = 4;
/// Places that a master sends us on to, of which the operator is told.
const PLACES_TOLD_MAX: usize = 16;

/// What is hung on a master's URL begins so.
const API: &str = ".im/";

/// Takes user name and password out of a URL. Returns the value of the header field that says the same (RFC 7617).
pub(super) fn take_user(url: &mut Url) -> Option<header::HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut user: Vec<u8> = percent_decode_str(url.username()).collect();
    user.push(b':');
    user.extend(percent_decode_str(url.password().unwrap_or_default()));
    let mut value = header::HeaderValue::from_str(&format!("Basic {}", BASE64.encode(user))).ok()?;
    value.set_sensitive(true);
    // These fail only for URLs without a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Some(value)
}

/// Whether nobody on the way there can listen.
pub(super) fn is_private(url: &Url) -> bool {
    let is_here = url.host_str() == Some("localhost") || address_of(url).is_some_and(|address| address.is_loopback());
    url.scheme() == "https" || is_here
}

/// Where an answer sends us, if it does and we go there.
fn target(from: &Url, method: &Method, response: &Response) -> Option<Result<Url, String>> {
    let status = response.status();
    let is_followed = match status {
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => true,
        // "The answer is to be had by a GET there."
        StatusCode::SEE_OTHER => method == Method::GET || method == Method::HEAD,
        _ => false,
    };
    if !is_followed {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?;
    let location = location.to_str().ok().and_then(|text| from.join(text).ok());
    Some(match location {
        None => Err(format!("{status} to what is no URL")),
        Some(to) if !matches!(to.scheme(), "http" | "https") => {
            Err(format!("{status} to a URL of scheme {}", to.scheme()))
        }
        Some(to) if from.scheme() == "https" && to.scheme() == "http" => Err(format!(
            "{status} from https to http at {}, which is not followed",
            SecretUrl::from(to.as_str())
        )),
        Some(to) => Ok(to),
    })
}

impl HttpOrigin {
    /// Where the master is, as far as is known.
    pub(super) fn base_now(&self) -> Url {
        let moved = lock(&self.shared.moved);
        moved.to.clone().unwrap_or_else(|| self.base.clone())
    }

    /// Whether this place may hear who we are.
    pub(super) fn may_be_told(&self, url: &Url) -> bool {
        let is_as_safe = is_private(url) || self.base.scheme() == url.scheme();
        url.host_str() == self.base.host_str() && is_as_safe
    }

    /// Sends a request, wherever the master sends it on to. All of it may take `wait`.
    pub(super) async fn follow(&self, request: RequestBuilder, wait: Duration) -> Result<Response, TransportError> {
        let (mut client, request) = request.build_split();
        let mut request = request.map_err(|error| self.unreachable(&reason_of(&error)))?;
        let first = request.url().clone();
        let mut is_for_good = true;
        let deadline = Instant::now() + wait;
        for _ in 0..=REDIRECTS_MAX {
            let again = request.try_clone();
            let (at, method) = (request.url().clone(), request.method().clone());
            let response = timeout_at(deadline, client.execute(request)).await.map_err(|_| {
                // The next request goes to the configured place.
                lock(&self.shared.moved).to = None;
                self.unreachable_at(&at, "no answer in time".to_owned())
            })?;
            let response = response.map_err(|error| {
                self.moved_in_vain(&at);
                self.broken(&at, &error)
            })?;
            let Some(target) = target(&at, &method, &response) else {
                let status = response.status();
                if status.is_client_error() || status.is_server_error() {
                    // A gate or a wrong host for a minute must not be asked for ever.
                    self.moved_in_vain(&at);
                } else if at != first {
                    self.note_moved(&first, &at, is_for_good);
                }
                return Ok(response);
            };
            let to = target.map_err(|reason| self.refused(self.told_of(&at, reason)))?;
            let status = response.status();
            is_for_good &= matches!(status, StatusCode::MOVED_PERMANENTLY | StatusCode::PERMANENT_REDIRECT);
            let again = again.ok_or_else(|| self.refused(format!("{status} for what cannot be sent twice")))?;
            if !self.may_be_told(&to) {
                client = self.anonymous_client()?;
            }
            request = self.sent_on(again, to)?;
        }
        Err(self.refused(format!(
            "more than {REDIRECTS_MAX} redirects, the last to {}",
            shown(request.url())
        )))
    }

    /// Makes connections on which our certificate is not shown. Of all lanes, since a request that was sent to another host
    /// waits for that one anyway.
    fn anonymous_client(&self) -> Result<Client, TransportError> {
        let clients = self.shared.connections.clients(false);
        let clients = clients.map_err(|error| self.unreachable(&error))?;
        Ok(clients.of(Lane::Common).clone())
    }

    /// The same request to another place.
    fn sent_on(&self, mut request: Request, mut to: Url) -> Result<Request, TransportError> {
        // Nobody tells us who we are.
        let _ = to.set_username("");
        let _ = to.set_password(None);
        if self.shared.connections.refuses(&to) {
            let reason = format!("it sends us to {}, which [peers] allow and deny leave out", shown(&to));
            return Err(self.refused(reason));
        }
        if !self.may_be_told(&to) {
            request.headers_mut().remove(header::AUTHORIZATION);
        } else if let Some(value) = &self.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, value.clone());
        }
        *request.url_mut() = to;
        Ok(request)
    }

    /// Takes note of where a request has led, and tells the operator once of each place.
    fn note_moved(&self, from: &Url, to: &Url, is_for_good: bool) {
        let mut moved = lock(&self.shared.moved);
        let (Some(before), Some(base)) = (base_of(from, from), base_of(from, to)) else {
            // A page for people, which is no answer, or a store that has files by other names.
            if moved.is_news(&to.origin().ascii_serialization()) {
                let (from, to) = (shown(from), shown(to));
                tracing::warn!(
                    master = self.label,
                    "it sends us on from {from} to {to}, which is another path"
                );
            }
            return;
        };
        if moved.is_news(base.as_str()) {
            tracing::warn!(
                master = self.label,
                "it sends us on from {} to {}: change `master` to the new URL",
                shown(&before),
                shown(&base)
            );
        }
        // A key in the configured URL's query may be meant for that host alone.
        if is_for_good && self.base.query().is_none() {
            moved.to = Some(base);
        }
    }

    /// The place that the master has moved to gives no good answer: the one that is configured is asked again.
    fn moved_in_vain(&self, at: &Url) {
        let mut moved = lock(&self.shared.moved);
        if moved.to.as_ref().is_some_and(|base| base.origin() == at.origin()) {
            moved.to = None;
        }
    }

    /// The same reason with what stands between us and `at`, the place that was asked: the master is not who said so, if it
    /// has sent us on, and need not be, if a proxy asked it.
    pub(super) fn told_of(&self, at: &Url, mut reason: String) -> String {
        if !self.is_here(at) {
            let place = base_of(at, at).unwrap_or_else(|| at.clone());
            reason = format!("{reason} (sent on to {})", shown(&place));
        }
        match self.shared.connections.proxy(at) {
            Some(proxy) => by_proxy(reason, proxy),
            None => reason,
        }
    }

    /// Whether this is below the configured URL.
    fn is_here(&self, at: &Url) -> bool {
        let below = at.path().strip_prefix(self.base.path());
        at.origin() == self.base.origin() && below.is_some_and(|below| below.starts_with(API))
    }
}

impl Moved {
    /// Whether the operator was not told of this place yet.
    fn is_news(&mut self, place: &str) -> bool {
        self.told.len() < PLACES_TOLD_MAX && self.told.insert(place.to_owned())
    }
}

/// A reason for not getting an answer that a proxy was asked for.
pub(crate) fn by_proxy(reason: String, proxy: &Url) -> String {
    let shown = shown(proxy);
    // That it is "unsuccessful" is all that is known of a CONNECT.
    match reason.strip_prefix("tunnel error: ") {
        Some(why) => format!("the proxy {shown} makes no way there, and its log says why: {why}"),
        None => format!("{reason} (asked through the proxy {shown})"),
    }
}

/// The part of `to` that stands for a master's URL, if `to` is the request `from` there.
fn base_of(from: &Url, to: &Url) -> Option<Url> {
    let at = from.path().find(API)?;
    let asked = &from.path()[at..];
    let mut base = to.clone();
    base.set_path(to.path().strip_suffix(asked)?);
    base.set_query(None);
    Some(base)
}

fn shown(url: &Url) -> String {
    SecretUrl::from(url.as_str()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn the_place_of_a_master_is_found_in_where_a_request_was_sent() {
        let from = url("http://a/pub/.im/v1/r/head?after=3");
        for (to, base) in [
            ("https://b:1/.im/v1/r/head?after=3", Some("https://b:1/")),
            ("https://b/x/.im/v1/r/head", Some("https://b/x/")),
            ("https://b/login?to=/.im/v1/r/head", None),
            ("https://b/.im/v1/r/keys", None),
        ] {
            assert_eq!(base_of(&from, &url(to)), base.map(url), "{to}");
        }
    }

    #[test]
    fn user_and_password_go_into_a_header_field() {
        let mut base = url("https://us%20er:p%40w@host/x");
        assert_eq!(take_user(&mut base).unwrap(), "Basic dXMgZXI6cEB3");
        assert_eq!((take_user(&mut base), base.as_str()), (None, "https://host/x"));
    }

    #[test]
    fn who_we_are_is_told_to_the_masters_host_alone_and_never_less_safely() {
        let secret = HttpOrigin::new("https://master.example").unwrap();
        assert!(secret.may_be_told(&url("https://master.example:8443/x")));
        assert!(!secret.may_be_told(&url("http://master.example/")));
        assert!(!secret.may_be_told(&url("https://other.example/")));
        let plain = HttpOrigin::new("http://u:p@master.example").unwrap();
        assert!(
            plain.may_be_told(&url("http://master.example:81/")) && plain.may_be_told(&url("https://master.example/"))
        );
        assert!(!plain.may_be_told(&url("http://localhost/")));
        let shown = format!("{plain:?} {}", plain.label());
        assert!(!shown.contains("u:p") && shown.contains("master.example"), "{shown}");
        let error = HttpOrigin::new("https://u:p@m")
            .unwrap()
            .with_token("t")
            .unwrap_err()
            .to_string();
        assert!(error.contains("not for both") && !error.contains("u:p"), "{error}");
    }
}
