//! Checks by the builders of masters and nodes of several repositories together, or of one and the rest.

use instantmirror_core::RepoName;
use instantmirror_http::Mounts;

use crate::build_error::BuildError;
use crate::config::{HttpConfig, MountConfig};

/// Mounts have paths of URLs, each another one, and none of them the server's own.
pub(crate) fn check_mounts<'a>(
    repositories: impl Iterator<Item = (&'a RepoName, &'a [MountConfig])>,
) -> Result<(), BuildError> {
    let mut mounts = Vec::new();
    for (name, configs) in repositories {
        for config in configs {
            let refused =
                |advice: String| BuildError::invalid(format!("repository '{name}' mount"), &config.path, advice);
            mounts.push(config.mount(name).map_err(refused)?);
            Mounts::new(mounts.clone()).map_err(|error| refused(error.to_string()))?;
        }
    }
    Ok(())
}

/// Rules for one repository need that one.
pub(crate) fn check_http_rules<'a>(
    http: &HttpConfig,
    names: impl Iterator<Item = &'a RepoName> + Clone,
) -> Result<(), BuildError> {
    let mut named = http.rules.iter().filter_map(|rule| rule.repository.as_ref());
    match named.find(|name| !names.clone().any(|one| one == *name)) {
        Some(name) => {
            let advice = "a rule is for this repository, and there is none of this name";
            Err(BuildError::invalid("http", name, advice))
        }
        None => Ok(()),
    }
}
