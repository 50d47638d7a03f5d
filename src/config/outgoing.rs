//! `[outgoing]`: how connections to masters and trackers are made.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use instantmirror_core::address::AddressPolicy;
use instantmirror_core::url::SecretUrl;
use instantmirror_swarm::origin::{Outgoing, Proxies};
use serde::Deserialize;

/// The proxy that is none.
const DIRECT: &str = "none";

/// `[outgoing]`, and `outgoing` of a repository or of `[peers]`, which then stands for all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutgoingConfig {
    /// URL of a proxy, or `none`. Without it the environment says which, as curl reads it.
    pub proxy: Option<SecretUrl>,
    /// A file with one line `USER:PASSWORD` for the proxy, which only its owner can read.
    pub proxy_credentials_file: Option<PathBuf>,
    /// Certificates of authorities that are believed besides those of the system, PEM.
    pub ca_file: Option<PathBuf>,
    /// Our certificate with its chain, PEM, for masters that want one.
    pub client_certificate: Option<PathBuf>,
    /// Its private key, PEM.
    pub client_key: Option<PathBuf>,
}

impl OutgoingConfig {
    /// Its files, by their keys below `section`.
    pub(super) fn paths(&mut self, section: &str) -> Vec<(String, &mut PathBuf)> {
        let keys = [
            ("proxy_credentials_file", &mut self.proxy_credentials_file),
            ("ca_file", &mut self.ca_file),
            ("client_certificate", &mut self.client_certificate),
            ("client_key", &mut self.client_key),
        ];
        let named = |(key, path): (&str, Option<_>)| Some((format!("{section}.{key}"), path?));
        keys.into_iter()
            .map(|(key, path)| (key, path.as_mut()))
            .filter_map(named)
            .collect()
    }

    /// What can be said without looking at any file.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.client_certificate.is_some() != self.client_key.is_some() {
            return Err("client_certificate and client_key go together: name both or neither".to_owned());
        }
        let is_proxied = self.proxy.as_ref().is_some_and(|proxy| proxy.exposed() != DIRECT);
        if self.proxy_credentials_file.is_some() && !is_proxied {
            return Err("proxy_credentials_file is for the proxy that `proxy` names; name one".to_owned());
        }
        match &self.proxy {
            Some(proxy) if is_proxied => Proxies::all(proxy).map(drop),
            _ => Ok(()),
        }
    }

    /// Whether what is at this URL is asked by a proxy.
    pub(super) fn is_by_proxy(&self, url: &SecretUrl) -> bool {
        self.proxies().is_ok_and(|proxies| proxies.serve(url))
    }

    /// Without the user name that a file may hold.
    fn proxies(&self) -> Result<Proxies, String> {
        match &self.proxy {
            None => Proxies::from_environment(|name| std::env::var(name).ok()),
            Some(proxy) if proxy.exposed() == DIRECT => Ok(Proxies::default()),
            Some(proxy) => Proxies::all(proxy),
        }
    }

    /// Reads the files and the environment.
    ///
    /// # Errors
    /// A text for a person that names the file, and no secret.
    pub fn load(&self, policy: &AddressPolicy) -> Result<Outgoing, String> {
        let mut proxies = self.proxies()?;
        if let Some(file) = &self.proxy_credentials_file {
            let text = read_private(file, "a password")?;
            let (user, password) = text
                .trim()
                .split_once(':')
                .ok_or_else(|| format!("{}: one line USER:PASSWORD is expected", file.display()))?;
            proxies = proxies.with_user(user, password);
        }
        let authorities = self.ca_file.as_deref().map(read).transpose()?;
        let identity = match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => {
                let key = read_private(key, "a private key")?;
                Some([read(certificate)?, b"\n".to_vec(), key.into_bytes()].concat())
            }
            _ => None,
        };
        let outgoing = Outgoing {
            policy: policy.clone(),
            proxies,
            authorities: authorities.unwrap_or_default(),
            identity,
        };
        let named = |error: String| match (&self.ca_file, &self.client_certificate) {
            (Some(file), None) => format!("{}: {error}", file.display()),
            (None, Some(file)) => format!("{}: {error}", file.display()),
            _ => error,
        };
        outgoing.check().map_err(named)?;
        Ok(outgoing)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
}

/// Reads what nobody else may read. As for keys of ssh, what others may read is refused, and not only complained of.
fn read_private(file: &Path, what: &str) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("{} cannot be read: {error}", file.display());
    let mode = std::fs::metadata(file).map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        let shown = file.display();
        return Err(format!(
            "{shown} holds {what} and can be read by others (mode {mode:o}); `chmod 600` it"
        ));
    }
    std::fs::read_to_string(file).map_err(unreadable)
}
