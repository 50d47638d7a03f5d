//! Verifies a master's signed head as a node does: signature, sequence, expiry. Core alone, without a runtime.
//!
//! ```text
//! curl -s http://MASTER/.im/v1/REPOSITORY/head > head
//! cargo run --example verify_head -- head REPOSITORY ed25519:KEY
//! ```
//! Without arguments it signs a head of its own and shows what is refused.

#![allow(clippy::print_stdout, reason = "an example that talks")]

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use instantmirror::core::{Head, PublicKey, RepoName, SecretKey, SignedHead, Timestamp};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [file, repository, key] => {
            let bytes = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
            let signed = SignedHead::verify(bytes.into(), &repository.parse()?, &[key.parse()?])?;
            // A node passes the head that it holds, so that nobody can take it back to an older one.
            signed.succeeds(None, now()?)?;
            show(&signed);
            Ok(())
        }
        [] => refusals(),
        _ => anyhow::bail!("name a file, a repository and a key, or nothing"),
    }
}

fn now() -> anyhow::Result<Timestamp> {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(Timestamp::from_millis(since_1970.as_millis().try_into()?))
}

fn show(signed: &SignedHead) {
    let head = signed.head();
    let current = head.current.map_or("none".to_owned(), |id| id.to_string());
    println!("{}: sequence {}, current {current}", head.repository, head.sequence);
    println!("{} snapshots, expires {}", head.snapshots.len(), head.expires);
}

fn refusals() -> anyhow::Result<()> {
    let key = SecretKey::from_random([7; 32]);
    let stranger = SecretKey::from_random([8; 32]).public();
    let name: RepoName = "debian".parse()?;
    let (newer, older) = (sign(&name, &key, 2)?, sign(&name, &key, 1)?);
    let verify = |bytes: Vec<u8>, trusted: PublicKey| SignedHead::verify(bytes.into(), &name, &[trusted]);

    show(&verify(newer.bytes().to_vec(), key.public())?);
    let mut changed = newer.bytes().to_vec();
    changed[40] ^= 1;
    for (what, outcome) in [
        ("a changed byte", verify(changed, key.public()).err()),
        ("another key", verify(newer.bytes().to_vec(), stranger).err()),
        ("an older head", older.succeeds(Some(&newer), now()?).err()),
    ] {
        println!("{what}: {}", outcome.context("it was taken")?);
    }
    Ok(())
}

/// The head of a repository without snapshots, good for a day.
fn sign(name: &RepoName, key: &SecretKey, sequence: u64) -> anyhow::Result<SignedHead> {
    let issued = now()?;
    let head = Head {
        sequence,
        expires: issued.plus(Duration::from_secs(24 * 3600)),
        ..Head::first(name.clone(), 1 << 20, issued)
    };
    Ok(head.sign(&[key])?)
}
