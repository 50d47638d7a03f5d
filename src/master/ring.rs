//! The master's keys: the secret ones in files that only their owner can read, and the lists that tell nodes which of
//! them count (docs/formats/keys.md).
//!
//! The first key is in `key_file`, the one that list N brought in `key_file.N`. Lists are read anew whenever they are
//! needed: a running `imserver serve` goes with what `imserver key` has changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use instantmirror_core::keys::{KEYS_MAX, ListedKey};
use instantmirror_core::{Clock as _, KeyChain, KeyList, PublicKey, SecretKey, Timestamp};
use instantmirror_store::disk::Disk;
use instantmirror_store::keyfile::{read_keys, write_keys};

use super::key::{KeyError, KeyPlace, load_key, store_key};
use super::writer::Writer;
use super::{Master, MasterError, generate_key};
use crate::clock::SystemClock;

/// The lists, in the directory in which nodes have one for each repository.
const LISTS: &str = "keys/master.lists";

/// All keys that are here.
pub(super) struct Ring {
    secrets: Vec<Secret>,
    /// The lists as they are served, from the first one on.
    lists: Bytes,
    chain: KeyChain,
}

/// The secret half of a key.
struct Secret {
    key: Arc<SecretKey>,
    /// `None` if it was given.
    file: Option<PathBuf>,
    /// When the file was written, or the key given.
    since: Timestamp,
}

/// A key of a master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterKey {
    /// The key.
    pub key: PublicKey,
    /// The file with its secret half, if that is here.
    pub file: Option<PathBuf>,
    /// When it was taken into use; `None` for one that signs nothing, since it was retired.
    pub since: Option<Timestamp>,
}

impl Ring {
    /// Reads lists and keys.
    ///
    /// # Errors
    /// [`KeyError`] for a key file that cannot be used, or if there is none; [`MasterError::Keys`] for lists that do not
    /// lead to any of them.
    pub(super) fn load(disk: &dyn Disk, keys: &KeyPlace) -> Result<Self, MasterError> {
        let lists = read_keys(disk, Path::new(LISTS))?.unwrap_or_default();
        let secrets = match keys {
            KeyPlace::File(file) => secrets_in(file)?,
            KeyPlace::Given { key, since } => vec![Secret {
                key: Arc::clone(key),
                file: None,
                since: *since,
            }],
        };
        let pinned: Vec<PublicKey> = secrets.iter().map(|secret| secret.key.public()).collect();
        let chain = KeyChain::read(&lists, &pinned)?;
        Ok(Self { secrets, lists, chain })
    }

    /// The version of the newest list; 0 if there is none.
    pub(super) fn version(&self) -> u64 {
        self.chain.version()
    }

    /// Keys whose signatures this master believes in its own store.
    pub(super) fn known(&self) -> Vec<PublicKey> {
        self.chain.ever_trusted(&self.public())
    }

    /// The newest key: the one that a new mirror shall trust.
    ///
    /// # Errors
    /// [`MasterError::NoKeySigns`].
    pub(super) fn newest(&self) -> Result<PublicKey, MasterError> {
        let newest = self.listed().last().map(|listed| listed.key);
        newest.ok_or(MasterError::NoKeySigns)
    }

    /// The keys that sign heads: those of the newest list that are here.
    ///
    /// # Errors
    /// [`MasterError::NoKeySigns`].
    pub(super) fn signers(&self) -> Result<Vec<&SecretKey>, MasterError> {
        let listed = self.listed();
        let signers: Vec<&SecretKey> = listed.iter().filter_map(|listed| self.secret(&listed.key)).collect();
        if signers.is_empty() {
            return Err(MasterError::NoKeySigns);
        }
        Ok(signers)
    }

    fn public(&self) -> Vec<PublicKey> {
        self.secrets.iter().map(|secret| secret.key.public()).collect()
    }

    fn secret(&self, key: &PublicKey) -> Option<&SecretKey> {
        let found = self.secrets.iter().find(|secret| secret.key.public() == *key);
        found.map(|secret| secret.key.as_ref())
    }

    /// The keys of the newest list; without one, the key that the master began with.
    fn listed(&self) -> Vec<ListedKey> {
        if let Some(list) = self.chain.newest() {
            return list.keys.clone();
        }
        let first = self.secrets.first().map(|secret| ListedKey {
            key: secret.key.public(),
            since: secret.since,
        });
        first.into_iter().collect()
    }

    /// The lists with one more.
    fn with_list(&self, keys: Vec<ListedKey>, new: Option<&SecretKey>) -> Result<Bytes, MasterError> {
        let list = KeyList {
            version: self.version() + 1,
            issued: SystemClock.now(),
            keys,
        };
        let mut signers: Vec<&SecretKey> = list.keys.iter().filter_map(|listed| self.secret(&listed.key)).collect();
        signers.extend(new);
        let envelope = list.sign(&signers)?;
        let lists: Bytes = [self.lists.as_ref(), envelope.as_ref(), b"\n"].concat().into();
        // What nodes would refuse must not get to them.
        self.chain.follow(&lists, &self.public())?;
        Ok(lists)
    }
}

/// The keys in files.
fn secrets_in(key_file: &Path) -> Result<Vec<Secret>, KeyError> {
    let mut secrets = Vec::new();
    for file in files(key_file) {
        secrets.push(Secret {
            key: Arc::new(load_key(&file)?),
            since: written(&file),
            file: Some(file),
        });
    }
    match secrets.is_empty() {
        true => Err(KeyError::Missing {
            path: key_file.to_path_buf(),
        }),
        false => Ok(secrets),
    }
}

/// The key files there are, the first one first.
fn files(key_file: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Some(key_file.to_path_buf())
        .filter(|file| file.exists())
        .into_iter()
        .collect();
    let dir = key_file
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let name = key_file
        .file_name()
        .map(|name| format!("{}.", name.to_string_lossy()))
        .unwrap_or_default();
    let Ok(entries) = std::fs::read_dir(dir) else {
        return files;
    };
    let number = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let number: u64 = entry.file_name().to_str()?.strip_prefix(&name)?.parse().ok()?;
        Some((number, entry.path()))
    };
    let mut numbered: Vec<(u64, PathBuf)> = entries.filter_map(number).collect();
    numbered.sort();
    files.extend(numbered.into_iter().map(|(_, path)| path));
    files
}

/// Removes half-written keys of changes that were killed: `key_file.N.PID.tmp`. For who holds the store's lock.
pub(super) fn remove_leftovers(key_file: &Path) {
    let dir = key_file
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let name = key_file
        .file_name()
        .map(|name| format!("{}.", name.to_string_lossy()))
        .unwrap_or_default();
    let is_number = |text: &str| text.parse::<u64>().is_ok();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let numbers = file
            .to_str()
            .and_then(|file| file.strip_prefix(&name)?.strip_suffix(".tmp")?.split_once('.'));
        if numbers.is_some_and(|(list, process)| is_number(list) && is_number(process)) {
            // What stays is tried again by the next writer.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn written(file: &Path) -> Timestamp {
    let modified = std::fs::metadata(file).and_then(|meta| meta.modified()).ok();
    let millis = modified.and_then(|time| Some(time.duration_since(UNIX_EPOCH).ok()?.as_millis()));
    millis
        .and_then(|millis| i64::try_from(millis).ok())
        .map_or_else(|| SystemClock.now(), Timestamp::from_millis)
}

impl Master {
    pub(super) fn ring(&self) -> Result<Ring, MasterError> {
        Ring::load(self.notes(), &self.parts.keys)
    }

    /// The keys of this master, the oldest first.
    ///
    /// # Errors
    /// [`MasterError::Key`], [`MasterError::Keys`].
    pub fn keys(&self) -> Result<Vec<MasterKey>, MasterError> {
        let ring = self.ring()?;
        let listed = ring.listed();
        let retired = ring
            .known()
            .into_iter()
            .filter(|key| !listed.iter().any(|listed| listed.key == *key));
        let file = |key: &PublicKey| ring.secrets.iter().find(|secret| secret.key.public() == *key);
        let describe = |key: PublicKey, since| MasterKey {
            key,
            file: file(&key).and_then(|secret| secret.file.clone()),
            since,
        };
        let retired = retired.map(|key| describe(key, None)).collect::<Vec<_>>();
        let signing = listed.iter().map(|listed| describe(listed.key, Some(listed.since)));
        Ok(retired.into_iter().chain(signing).collect())
    }

    /// The key lists as nodes get them; `None` if the key was never changed.
    ///
    /// # Errors
    /// [`MasterError::Store`].
    pub fn key_lists(&self) -> Result<Option<Bytes>, MasterError> {
        Ok(read_keys(self.notes(), Path::new(LISTS))?)
    }

    /// Makes a new key, tells nodes by a list that the present ones sign, and signs all heads with the old keys and the
    /// new one, until the old ones are [retired](Self::retire_key). Blocks until all is durable.
    ///
    /// # Errors
    /// [`MasterError::GivenKey`], [`MasterError::TooManyKeys`]; [`MasterError::Keys`] if the secret half of a key that counts is not here;
    /// [`MasterError::Store`], [`MasterError::Key`]. If no list was stored nothing has changed; a head that could not be
    /// signed anew is within the hour.
    pub fn rotate_key(&self) -> Result<MasterKey, MasterError> {
        let Some(first) = self.parts.keys.file() else {
            return Err(MasterError::GivenKey);
        };
        let writer = Writer::open(self)?;
        let ring = self.ring()?;
        let mut keys = ring.listed();
        if keys.len() >= KEYS_MAX {
            return Err(MasterError::TooManyKeys);
        }
        let mut file = first.as_os_str().to_owned();
        file.push(format!(".{}", ring.version() + 1));
        let file = PathBuf::from(file);
        // One that is there was made for this list by somebody who was killed before it was stored.
        if !file.exists() {
            store_key(&file, &generate_key()?)?;
        }
        let new = load_key(&file)?;
        let (key, since) = (new.public(), SystemClock.now());
        keys.retain(|listed| listed.key != key);
        keys.push(ListedKey { key, since });
        let lists = ring.with_list(keys, Some(&new))?;
        self.store_lists(&writer, &lists)?;
        let (file, since) = (Some(file), Some(since));
        Ok(MasterKey { key, file, since })
    }

    /// Takes a key out of use: from the next list on nodes refuse what it alone has signed. Blocks until all is durable.
    ///
    /// # Errors
    /// [`MasterError::UnknownKey`], [`MasterError::LastKey`], else as [`rotate_key`](Self::rotate_key).
    pub fn retire_key(&self, key: &PublicKey) -> Result<(), MasterError> {
        let writer = Writer::open(self)?;
        let ring = self.ring()?;
        let mut keys = ring.listed();
        if !keys.iter().any(|listed| listed.key == *key) {
            let known: Vec<String> = keys.iter().map(|listed| listed.key.to_string()).collect();
            let (key, known) = (Box::new(*key), known.join(", "));
            return Err(MasterError::UnknownKey { key, known });
        }
        if keys.len() == 1 {
            return Err(MasterError::LastKey);
        }
        keys.retain(|listed| listed.key != *key);
        let lists = ring.with_list(keys, None)?;
        self.store_lists(&writer, &lists)
    }

    fn store_lists(&self, writer: &Writer, lists: &Bytes) -> Result<(), MasterError> {
        write_keys(self.notes(), Path::new(LISTS), lists)?;
        for repository in &self.config.repositories {
            if let Some(held) = self.head(&repository.name)? {
                self.commit(writer, held.head().clone(), SystemClock.now())?;
            }
        }
        Ok(())
    }
}
