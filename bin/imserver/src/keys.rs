//! `imserver key`: which keys sign, and changing them.

use anyhow::Context as _;
use clap::Subcommand;
use instantmirror::Master;
use instantmirror::core::PublicKey;

#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// List the keys of this master, the oldest first.
    List,
    /// Make a new key. Mirrors trust it because the present ones say so; all sign until the old ones are retired.
    Rotate {
        /// Retire all others at once: when somebody else has one. Mirrors that are reached only later still learn it.
        #[arg(long)]
        retire_old: bool,
    },
    /// Take a key out of use: mirrors refuse what it alone has signed as soon as they have heard of it.
    Retire {
        /// The key, as `imserver key list` shows it.
        key: PublicKey,
    },
}

pub(crate) fn run(master: &Master, command: &KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::List => list(master),
        KeyCommand::Rotate { retire_old } => {
            let old = master.keys()?;
            let new = master.rotate_key()?;
            println!("{} signs from now on", new.key);
            if let Some(file) = &new.file {
                println!("its secret half is in {}: back it up", file.display());
            }
            for key in old.iter().filter(|key| *retire_old && key.since.is_some()) {
                retire(master, &key.key).context("the new key is in use, and so are old ones")?;
            }
            Ok(())
        }
        KeyCommand::Retire { key } => retire(master, key),
    }
}

fn retire(master: &Master, key: &PublicKey) -> anyhow::Result<()> {
    master.retire_key(key)?;
    println!("{key} is retired");
    Ok(())
}

fn list(master: &Master) -> anyhow::Result<()> {
    for key in master.keys()? {
        let since = key
            .since
            .map_or_else(|| "retired".to_owned(), |since| format!("signs since {since}"));
        let file = key
            .file
            .map_or_else(|| "its file is not here".to_owned(), |file| file.display().to_string());
        println!("{}  {since}  {file}", key.key);
    }
    Ok(())
}
