#!/bin/bash
# Program:  bip_metainfo 0.12.0 (crates.io), a Rust crate that builds and reads .torrent files.
# Expected: `MetainfoBuilder::set_main_tracker(Some(url))` puts `announce` into the torrent, as its
#           documentation says; likewise `set_comment`, `set_created_by` and `set_creation_date`.
# Seen:     whatever is set is removed again in the same call, however often it is called: no torrent
#           that the builder makes has a tracker, comment, author or date, and nothing is said. (The
#           setter takes "insert returned no former value" for "there was nothing to insert", and
#           removes the key.) The info dictionary is right: its hash does not depend on these keys.
# Follows:  as an oracle for info dictionaries the crate is good; what stands beside them has to be put
#           around its output by the caller. Its documentation's example sets `created_by` and does not
#           look whether it is there.
# Result:   exit 0 as above, 1 if it changed, 2 if it could not be tried.
set -euo pipefail

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
command -v cargo >/dev/null || { echo "cargo is missing"; exit 2; }

mkdir "$tmp/src"
cat >"$tmp/Cargo.toml" <<'TOML'
[package]
name = "tried"
version = "0.0.0"
edition = "2021"

[dependencies]
bip_metainfo = "=0.12.0"

[workspace]
TOML
cat >"$tmp/src/main.rs" <<'RUST'
use bip_metainfo::{DirectAccessor, Metainfo, MetainfoBuilder};

fn main() {
    let builder = MetainfoBuilder::new()
        .set_main_tracker(Some("http://127.0.0.1:6969/announce"))
        .set_comment(Some("a comment"))
        .set_created_by(Some("somebody"))
        .set_creation_date(Some(1_000_000_000));
    let bytes = builder.build(1, DirectAccessor::new("file", b"content"), |_| ()).unwrap();
    let torrent = Metainfo::from_bytes(&bytes).unwrap();
    println!(
        "tracker {:?}, comment {:?}, created by {:?}, date {:?}",
        torrent.main_tracker(),
        torrent.comment(),
        torrent.created_by(),
        torrent.creation_date()
    );
    let keys = String::from_utf8_lossy(&bytes).split("4:info").next().unwrap().to_owned();
    println!("before the info dictionary: {keys}");
}
RUST
cd "$tmp"
CARGO_TARGET_DIR="$tmp/target" cargo build --quiet >"$tmp/cargo.log" 2>&1 || { cat "$tmp/cargo.log"; exit 2; }
seen=$("$tmp/target/debug/tried")
echo "bip_metainfo 0.12.0:"
echo "$seen"

expected='tracker None, comment None, created by None, date None
before the info dictionary: d'
[ "$seen" = "$expected" ] || { echo "it changed"; exit 1; }
