//! Envelopes of strangers are refused without a panic; a payload that our key has signed is a head that can be signed
//! again, or is refused.
#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use instantmirror_core::head::{HEAD_TYPE, SignedHead};
use instantmirror_core::{RepoName, SecretKey, sign};
use libfuzzer_sys::fuzz_target;

// Not the key of the seeds: no envelope that the fuzzer can come upon is ours.
static KEY: LazyLock<SecretKey> = LazyLock::new(|| SecretKey::from_random([9; 32]));
static REPOSITORY: LazyLock<RepoName> = LazyLock::new(|| "fedora".parse().expect("a name"));

fuzz_target!(|data: &[u8]| {
    let trusted = [KEY.public()];
    let stranger = SignedHead::verify(Bytes::copy_from_slice(data), &REPOSITORY, &trusted);
    assert!(stranger.is_err(), "a forged signature");
    let sealed = Bytes::from(sign::seal(HEAD_TYPE, data, &[&KEY]));
    let Ok(signed) = SignedHead::verify(sealed, &REPOSITORY, &trusted) else {
        return;
    };
    let again = signed.head().sign(&[&KEY]).expect("a verified head obeys every rule");
    let again = SignedHead::verify(again.bytes().clone(), &REPOSITORY, &trusted).expect("what we sign is believed");
    assert_eq!(again.head(), signed.head());
});
