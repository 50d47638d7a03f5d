//! `[http.limits]`: what the HTTP server allows its clients, together and by address.

use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};

use instantmirror_core::address::AddressBlock;
use instantmirror_http::{AddressLimits, Limits, RequestRate};
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer};

use super::http::CONNECTIONS_MAX;
use super::{Report, TimeSpan};

/// A bucket holds the tokens of so many seconds where nobody says how many.
const BURST_SECONDS: u32 = 10;
/// More requests a second than any server answers.
const REQUESTS_MAX: u32 = 10_000_000;

/// `[http.limits]`: what is allowed to clients, by the names of [`Limits`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct LimitsConfig {
    /// Time for the header of a request, from its first byte on.
    pub header_timeout: TimeSpan,
    /// A connection on which nothing is asked for so long is closed.
    pub idle_timeout: TimeSpan,
    /// A client that takes nothing of an answer for so long is cut.
    pub write_timeout: TimeSpan,
    /// Fewest bytes a second that a client must take, once it has made us wait for longer than `write_timeout`.
    pub send_rate_min: u64,
    /// How long requests may go on after the daemon was told to stop.
    pub shutdown_grace: TimeSpan,
    /// Connections of one address at a time.
    pub connections_per_address: Bound,
    /// Requests of one address a second, in the long run.
    pub requests_per_address: Bound,
    /// Requests of one address at once; without it those of ten seconds.
    pub requests_burst: Option<u32>,
    /// Addresses of IPv6 that begin with so many equal bits count as one.
    pub ipv6_prefix: u8,
    /// Addresses without limits of their own.
    pub exempt: Vec<AddressBlock>,
}

/// A number of something, or `"off"`: as many as there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// No limit.
    Off,
    /// So many at most.
    At(u32),
}

impl Bound {
    fn number(self) -> Option<u32> {
        match self {
            Self::Off => None,
            Self::At(number) => Some(number),
        }
    }
}

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BoundVisitor;

        impl Visitor<'_> for BoundVisitor {
            type Value = Bound;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 1 on, or \"off\" for no limit")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Bound, E> {
                let number = u32::try_from(number);
                number
                    .map(Bound::At)
                    .map_err(|_| E::custom("the number is out of range"))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Bound, E> {
                let number = u32::try_from(number);
                number
                    .map(Bound::At)
                    .map_err(|_| E::custom("the number is out of range"))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bound, E> {
                match text {
                    "off" => Ok(Bound::Off),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }
        }

        deserializer.deserialize_any(BoundVisitor).map_err(D::Error::custom)
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let limits = Limits::default();
        let addresses = limits.addresses;
        let connections = addresses.connections_max.and_then(|max| u32::try_from(max.get()).ok());
        Self {
            header_timeout: TimeSpan(limits.header_timeout),
            idle_timeout: TimeSpan(limits.idle_timeout),
            write_timeout: TimeSpan(limits.write_timeout),
            send_rate_min: limits.send_rate_min,
            shutdown_grace: TimeSpan(limits.shutdown_grace),
            connections_per_address: connections.map_or(Bound::Off, Bound::At),
            requests_per_address: Bound::Off,
            requests_burst: None,
            ipv6_prefix: addresses.ipv6_prefix,
            exempt: addresses.exempt,
        }
    }
}

impl LimitsConfig {
    /// What one address is allowed.
    #[must_use]
    pub fn addresses(&self) -> AddressLimits {
        let connections = self.connections_per_address.number();
        let connections = connections.and_then(|max| NonZeroUsize::new(usize::try_from(max).ok()?));
        let rate = |per_second: u32| {
            let burst = self.requests_burst.unwrap_or(per_second.saturating_mul(BURST_SECONDS));
            Some(RequestRate {
                per_second: NonZeroU32::new(per_second)?,
                burst: NonZeroU32::new(burst)?,
            })
        };
        let mut addresses = AddressLimits::default();
        addresses.connections_max = connections;
        addresses.requests = self.requests_per_address.number().and_then(rate);
        addresses.ipv6_prefix = self.ipv6_prefix;
        addresses.exempt = self.exempt.clone();
        addresses
    }

    /// Whether all that cannot change while serving is the same: limits by address can.
    pub(crate) fn is_fixed_as(&self, other: &Self) -> bool {
        let fixed = |one: &Self| {
            (
                one.header_timeout,
                one.idle_timeout,
                one.write_timeout,
                one.send_rate_min,
                one.shutdown_grace,
            )
        };
        fixed(self) == fixed(other)
    }

    pub(super) fn check(&self, report: &mut Report<'_>) {
        let times = [
            ("header_timeout", self.header_timeout),
            ("idle_timeout", self.idle_timeout),
            ("write_timeout", self.write_timeout),
        ];
        for (name, _) in times.iter().filter(|(_, time)| time.0.is_zero()) {
            let text = format!("[http.limits] {name} = 0: every connection would be cut at once");
            report.refuse(&format!("http.limits.{name}"), text);
        }
        let most = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
        let numbers = [
            ("connections_per_address", self.connections_per_address.number(), most),
            ("requests_per_address", self.requests_per_address.number(), REQUESTS_MAX),
        ];
        for (name, number, most) in numbers {
            if let Some(number) = number.filter(|number| !(1..=most).contains(number)) {
                let text =
                    format!("[http.limits] {name} = {number}: it must be from 1 to {most}, or \"off\" for no limit");
                report.refuse(&format!("http.limits.{name}"), text);
            }
        }
        match self.requests_burst {
            Some(burst) if !(1..=REQUESTS_MAX).contains(&burst) => {
                let text = format!(
                    "[http.limits] requests_burst = {burst}: it must be from 1 to {REQUESTS_MAX}: a burst below 1 answers nothing"
                );
                report.refuse("http.limits.requests_burst", text);
            }
            Some(_) if self.requests_per_address == Bound::Off => {
                let text = "[http.limits] requests_burst does nothing without requests_per_address: give both, or none";
                report.refuse("http.limits.requests_burst", text);
            }
            _ => {}
        }
        let prefix = self.ipv6_prefix;
        if !(1..=128).contains(&prefix) {
            let text = format!("[http.limits] ipv6_prefix = {prefix}: it must be from 1 to 128");
            report.refuse("http.limits.ipv6_prefix", text);
        }
    }
}
