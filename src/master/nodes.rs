//! `nodes/NAME.token` in the store: which nodes may have what is staged. A file holds the hash of a token, never the
//! token. Whoever adds or removes a file changes the registry, at once and for every process; no lock is needed.

use std::path::{Path, PathBuf};

use instantmirror_core::NodeName;
use instantmirror_store::StoreError;
use instantmirror_store::disk::{read_file, write_atomically};

use super::key::random;
use super::{Master, MasterError};

const NODES: &str = "nodes";
const SUFFIX: &str = ".token";
const FIRST_WORDS: &str = "instantmirror node 1 ";
const FILE_BYTES_MAX: u64 = 4096;
/// Longest token that is looked at.
const TOKEN_CHARS_MAX: usize = 256;

fn path(node: &NodeName) -> PathBuf {
    Path::new(NODES).join(format!("{node}{SUFFIX}"))
}

/// What is kept of a token. It has 256 random bits, so a plain hash is as good as a slow one.
fn line(token: &str) -> String {
    format!("{FIRST_WORDS}{}\n", blake3::hash(token.as_bytes()).to_hex())
}

impl Master {
    /// Registers a node and returns its token, which is not kept anywhere: the node's operator puts it into the file that
    /// `token_file` of `imnode.toml` names.
    ///
    /// # Errors
    /// [`MasterError::NodeExists`]: remove it first to give it another token; [`MasterError::Store`].
    pub fn add_node(&self, node: &NodeName) -> Result<String, MasterError> {
        if read_file(self.notes(), &path(node), FILE_BYTES_MAX).is_ok() {
            return Err(MasterError::NodeExists { node: node.clone() });
        }
        let secret: [u8; 32] = random()?;
        let token = format!("{node}:{}", blake3::Hash::from_bytes(secret).to_hex());
        self.notes().create_dir_all(Path::new(NODES))?;
        write_atomically(self.notes(), &path(node), line(&token).as_bytes())?;
        Ok(token)
    }

    /// Takes a node's token away, from this moment on.
    ///
    /// # Errors
    /// [`MasterError::UnknownNode`], [`MasterError::Store`].
    pub fn remove_node(&self, node: &NodeName) -> Result<(), MasterError> {
        match self.notes().remove(&path(node)) {
            Err(error) if error.is_not_found() => {
                let known = self.nodes()?.iter().map(ToString::to_string).collect();
                let hint = instantmirror_core::snapshot_ref::hint(node.as_str(), known);
                Err(MasterError::UnknownNode {
                    node: node.clone(),
                    hint,
                })
            }
            removed => Ok(removed.and_then(|()| self.notes().sync_dir(Path::new(NODES)))?),
        }
    }

    /// The registered nodes, in order.
    ///
    /// # Errors
    /// [`MasterError::Store`].
    pub fn nodes(&self) -> Result<Vec<NodeName>, StoreError> {
        let items = match self.notes().list(Path::new(NODES)) {
            Err(error) if error.is_not_found() => Vec::new(),
            items => items?,
        };
        let name = |name: &str| name.strip_suffix(SUFFIX)?.parse().ok();
        let mut nodes: Vec<NodeName> = items.iter().filter_map(|item| name(item.name.to_str()?)).collect();
        nodes.sort();
        Ok(nodes)
    }

    /// The node that a token belongs to. Reads one small file.
    #[must_use]
    pub fn node_of(&self, token: &str) -> Option<NodeName> {
        let (name, _) = token.split_once(':').filter(|_| token.len() <= TOKEN_CHARS_MAX)?;
        let node: NodeName = name.parse().ok()?;
        let kept = read_file(self.notes(), &path(&node), FILE_BYTES_MAX).ok()?;
        (kept == line(token).as_bytes()).then_some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::World;
    use super::*;

    #[test]
    fn a_token_is_good_until_its_node_is_removed_and_is_kept_nowhere() {
        let world = World::new();
        let master = &world.master;
        let (first, second): (NodeName, NodeName) = ("first".parse().unwrap(), "second".parse().unwrap());
        assert_eq!(master.nodes().unwrap(), []);
        let token = master.add_node(&first).unwrap();
        let other = master.add_node(&second).unwrap();
        assert_ne!(token, other);
        assert!(matches!(master.add_node(&first), Err(MasterError::NodeExists { .. })));
        assert_eq!(master.nodes().unwrap(), [first.clone(), second.clone()]);
        assert_eq!(master.node_of(&token), Some(first.clone()));
        let swapped = token.replace("first", "second");
        for wrong in [
            swapped.as_str(),
            "",
            "first",
            "first:",
            "../first:00",
            &token[..token.len() - 1],
            &"x:".repeat(500),
        ] {
            assert_eq!(master.node_of(wrong), None, "{wrong}");
        }
        let kept = std::fs::read_to_string(world.in_store("nodes/first.token")).unwrap();
        assert!(!kept.contains(token.split_once(':').unwrap().1), "{kept}");
        master.remove_node(&first).unwrap();
        assert_eq!((master.node_of(&token), master.node_of(&other)), (None, Some(second)));
        let error = master.remove_node(&first).unwrap_err().to_string();
        assert!(error.contains("it has second"), "{error}");
    }
}
