//! `imserver mirrors`: who mirrors what, and how far each is.

use instantmirror::config::ServerConfig;
use instantmirror::control;
use instantmirror::core::RepoName;

/// Asks the running server, and prints what it knows.
pub(crate) async fn run(config: &ServerConfig, repository: Option<RepoName>, json: bool) -> anyhow::Result<()> {
    let mut status = control::mirrors(&config.control_socket()).await?;
    if let Some(repository) = repository {
        if !config.repositories.iter().any(|one| one.name == repository) {
            anyhow::bail!("there is no repository '{repository}' in the configuration");
        }
        status = status.of(&repository);
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{status}");
    }
    Ok(())
}
