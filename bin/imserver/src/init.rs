//! `imserver init`: from nothing to a master that can publish.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use instantmirror::Master;
use instantmirror::config::ServerConfig;

/// Writes the configuration if there is none, makes store and key, and says what to do next.
pub(crate) fn init(file: &Path, repositories: &[String]) -> anyhow::Result<()> {
    if file.exists() {
        anyhow::ensure!(
            repositories.is_empty(),
            "{} exists already; add repositories there, then run `imserver init` without --repository",
            file.display()
        );
    } else {
        let text = template(repositories)?;
        // What would be refused later is refused before it is written.
        ServerConfig::parse(file, &text)?;
        let mut new = std::fs::File::create_new(file).with_context(|| format!("cannot write {}", file.display()))?;
        new.write_all(text.as_bytes())
            .with_context(|| format!("cannot write {}", file.display()))?;
        println!("wrote {}; `imserver --print-config` explains every key", file.display());
    }
    let config = ServerConfig::load(file)?;
    Master::init(&config)?;
    let listen = config
        .http
        .listen
        .first()
        .map_or_else(|| "MASTER:8080".to_owned(), ToString::to_string);
    let master = Master::open(config)?;
    println!("store {} is ready", master.config().store.dir.display());
    for repository in &master.config().repositories {
        println!(
            "\nnodes follow '{0}' with this in imnode.toml:\n\n[[repository]]\nname = \"{0}\"",
            repository.name
        );
        println!("master = \"http://{listen}\"\ntrust = [\"{}\"]", master.public_key());
    }
    println!("\n(with the address under which nodes reach this machine, if that is another)");
    println!("\nnext: `imserver publish`, then `imserver serve`");
    Ok(())
}

fn template(repositories: &[String]) -> anyhow::Result<String> {
    let here = std::env::current_dir().context("cannot tell the current directory")?;
    let quoted = |path: &Path| serde_json::to_string(&path.to_string_lossy());
    let store = quoted(&here.join("imserver-store"))?;
    let mut text = format!("[store]\ndir = {store}\n\n[http]\nlisten = [\"127.0.0.1:8080\"]\n");
    for repository in repositories {
        let (name, dir) = repository.split_once('=').context("--repository takes NAME=DIR")?;
        let source = std::fs::canonicalize(dir).with_context(|| format!("source tree {dir}"))?;
        write!(
            text,
            "\n[[repository]]\nname = {name:?}\nsource = {}\n",
            quoted(&source)?
        )?;
    }
    Ok(text)
}
