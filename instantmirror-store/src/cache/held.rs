//! Objects that are not to be given up, whether or not they are here yet.

use instantmirror_core::ObjectId;
use instantmirror_core::expiry::fingerprint;

/// Objects that are not to be given up, by the first 8 bytes of their ids: 24 MB for 3 million. Two that share these
/// are taken for each other, which keeps one too many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldObjects(Vec<u64>);

impl HeldObjects {
    pub(super) fn contains(&self, object: &ObjectId) -> bool {
        self.0.binary_search(&fingerprint(object)).is_ok()
    }
}

impl FromIterator<ObjectId> for HeldObjects {
    fn from_iter<I: IntoIterator<Item = ObjectId>>(objects: I) -> Self {
        let mut keys: Vec<u64> = objects.into_iter().map(|object| fingerprint(&object)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.shrink_to_fit();
        Self(keys)
    }
}
