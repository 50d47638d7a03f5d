//! `[outgoing]`: how connections to masters and trackers are made.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use instantmirror_core::address::AddressPolicy;
use instantmirror_core::url::SecretUrl;
use instantmirror_swarm::origin::{Outgoing, Proxies};
use serde::Deserialize;

use super::Report;

/// The proxy that is none.
const DIRECT: &str = "none";

/// `[outgoing]`, and `outgoing` of a repository or of `[peers]`, which then stands for all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct OutgoingConfig {
    /// URL of a proxy, or `none`. Without it the environment says which, as curl reads it.
    pub proxy: Option<SecretUrl>,
    /// A file with one line `USER:PASSWORD` for the proxy, which is closed to others.
    pub proxy_credentials_file: Option<PathBuf>,
    /// Certificates of authorities that are believed besides those of the system, PEM.
    pub ca_file: Option<PathBuf>,
    /// Our certificate with its chain, PEM, for masters that want one.
    pub client_certificate: Option<PathBuf>,
    /// Its private key, PEM, which is closed to others.
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
    pub(crate) fn check(&self) -> Result<(), String> {
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

    /// Looks at its files. `section`: where it stands.
    pub(super) fn check_files(&self, section: &str, policy: &AddressPolicy, report: &mut Report<'_>) {
        report.check(section, self.load(policy).map(drop));
        let secrets = [
            ("proxy_credentials_file", &self.proxy_credentials_file),
            ("client_key", &self.client_key),
        ];
        for (key, file) in secrets {
            let note = file.as_deref().and_then(open_to_group);
            note.into_iter()
                .for_each(|note| report.note(&format!("{section}.{key}"), note));
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

/// Reads what others may not read. As for keys of ssh, what they may read is refused, and not only complained of. A group may
/// read it: that of the service (`root:ssl-cert`, mode 640), or the one that systemd gives to credentials (mode 440).
fn read_private(file: &Path, what: &str) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("{} cannot be read: {error}", file.display());
    let mode = mode_of(file).map_err(unreadable)?;
    if mode & 0o007 != 0 {
        let shown = file.display();
        return Err(format!(
            "{shown} holds {what} and is open to others (mode {mode:o}); `chmod 600` it, or 640 for a group of its own"
        ));
    }
    std::fs::read_to_string(file).map_err(unreadable)
}

/// What is to be said of a secret that a group can read, or change.
fn open_to_group(file: &Path) -> Option<String> {
    let mode = mode_of(file).ok()?;
    (mode & 0o070 != 0).then(|| {
        let shown = file.display();
        format!(
            "{shown} is a secret that is open to its group (mode {mode:o}); it should be a group of few, or mode 600"
        )
    })
}

fn mode_of(file: &Path) -> std::io::Result<u32> {
    Ok(std::fs::metadata(file)?.permissions().mode() & 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_closed_to_others_and_may_be_open_to_a_group() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, "user:password\n").unwrap();
        let at = |mode| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            (read_private(&file, "a password"), open_to_group(&file))
        };
        for mode in [0o600, 0o400] {
            let (text, note) = at(mode);
            assert_eq!((text.as_deref(), note), (Ok("user:password\n"), None), "{mode:o}");
        }
        for mode in [0o640, 0o440, 0o660] {
            let (text, note) = at(mode);
            let note = note.unwrap();
            assert!(text.is_ok() && note.contains(&format!("(mode {mode:o})")), "{note}");
        }
        for mode in [0o644, 0o604, 0o602, 0o601] {
            let error = at(mode).0.unwrap_err();
            assert!(
                error.contains(&format!(
                    "secret holds a password and is open to others (mode {mode:o})"
                )),
                "{error}"
            );
        }
    }

    #[test]
    #[cfg(feature = "node")]
    fn the_check_notes_what_a_group_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, config) = (dir.path().join("secret"), dir.path().join("imnode.toml"));
        std::fs::write(&secret, "user:password\n").unwrap();
        let cache = dir.path().join("cache");
        let outgoing = format!("proxy = \"http://192.0.2.1:3128\"\nproxy_credentials_file = {secret:?}\n");
        let text = format!(
            "[cache]\ndir = {cache:?}\nmax_size = \"1 GiB\"\n[http]\nlisten = [\"127.0.0.1:0\"]\n[outgoing]\n{outgoing}"
        );
        std::fs::write(&config, text).unwrap();
        let notes = |mode| {
            std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
            super::super::NodeConfig::inspect(&config).map(|(_, notes)| notes)
        };
        assert_eq!(notes(0o600).unwrap().len(), 0);
        let notes_of_group = notes(0o640).unwrap();
        assert!(
            notes_of_group.len() == 1 && notes_of_group[0].to_string().contains("toml:8:26: "),
            "{notes_of_group:?}"
        );
        assert!(notes(0o644).unwrap_err().to_string().contains("open to others"));
    }
}
