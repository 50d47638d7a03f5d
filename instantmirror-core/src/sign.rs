//! Ed25519 keys and the envelope in which signed data travels.
//!
//! The envelope is DSSE v1.0 (github.com/secure-systems-lab/dsse): JSON with the payload in base64 and
//! signatures over the *pre-authentication encoding* of payload type and payload bytes, so that nothing
//! has to be canonicalised and a signature for one type is worthless for another.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a key or a signed envelope was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// Not the text form of a public key.
    #[error("not a public key: 'ed25519:' and 64 hexadecimal digits are expected, as `imserver keygen` prints it")]
    PublicKey,
    /// Not the text form of a secret key.
    #[error("not a secret key file: 'ed25519-secret:' and 64 hexadecimal digits are expected")]
    SecretKey,
    /// The bytes are no envelope.
    #[error("not a signed envelope: {0}")]
    Envelope(String),
    /// The envelope holds something else.
    #[error("the envelope holds '{found}', not '{expected}'")]
    Type {
        /// The type asked for.
        expected: &'static str,
        /// The type it has.
        found: String,
    },
    /// No trusted key has signed it.
    #[error("no signature by a trusted key (signed by: {0})")]
    Untrusted(String),
}

/// Most bytes of an envelope that are looked at; a head of 10,000 snapshots stays far below.
pub const ENVELOPE_BYTES_MAX: usize = 16 << 20;

fn hex32(text: &str) -> Option<[u8; 32]> {
    text.parse::<crate::ObjectId>().ok().map(|id| *id.as_bytes())
}

/// A key that signatures are verified with; nodes pin it. Text form: `ed25519:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", crate::ObjectId::from_bytes(self.0.to_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = SignError;

    fn from_str(text: &str) -> Result<Self, SignError> {
        let bytes = text
            .strip_prefix("ed25519:")
            .and_then(hex32)
            .ok_or(SignError::PublicKey)?;
        VerifyingKey::from_bytes(&bytes)
            .map(Self)
            .map_err(|_| SignError::PublicKey)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A key that signs. Never printed by `Debug`; wiped from memory when dropped.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key made of 32 bytes of good randomness (the caller's: core has no source of it).
    #[must_use]
    pub fn from_random(random: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&random))
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// The text form for a key file that only its owner can read.
    #[must_use]
    pub fn to_secret_text(&self) -> String {
        format!("ed25519-secret:{}\n", crate::ObjectId::from_bytes(self.0.to_bytes()))
    }
}

impl FromStr for SecretKey {
    type Err = SignError;

    fn from_str(text: &str) -> Result<Self, SignError> {
        let hex = text.trim().strip_prefix("ed25519-secret:").and_then(hex32);
        hex.map(Self::from_random).ok_or(SignError::SecretKey)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    #[serde(rename = "payloadType")]
    payload_type: String,
    payload: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Serialize, Deserialize)]
struct EnvelopeSignature {
    keyid: String,
    sig: String,
}

/// DSSE's pre-authentication encoding: what is signed.
fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

/// Signs `payload` with every key and returns the envelope's bytes.
#[must_use]
pub fn seal(payload_type: &str, payload: &[u8], keys: &[&SecretKey]) -> Vec<u8> {
    let message = pre_authentication(payload_type, payload);
    let signature = |key: &&SecretKey| EnvelopeSignature {
        keyid: key.public().to_string(),
        sig: BASE64.encode(key.0.sign(&message).to_bytes()),
    };
    let envelope = Envelope {
        payload_type: payload_type.to_owned(),
        payload: BASE64.encode(payload),
        signatures: keys.iter().map(signature).collect(),
    };
    // Strings only: serialising cannot fail.
    serde_json::to_vec(&envelope).unwrap_or_default()
}

/// Verifies an envelope and returns its payload: one valid signature by one trusted key is enough.
///
/// # Errors
/// [`SignError::Envelope`], [`SignError::Type`] or [`SignError::Untrusted`]; nothing of the payload is
/// looked at before a signature has been verified.
pub fn open_sealed(expected: &'static str, envelope: &[u8], trusted: &[PublicKey]) -> Result<Vec<u8>, SignError> {
    let opened = Opened::of(expected, envelope)?;
    if trusted.iter().any(|key| opened.is_signed_by(key)) {
        return Ok(opened.payload);
    }
    Err(SignError::Untrusted(if opened.names.is_empty() {
        "nobody".to_owned()
    } else {
        opened.names.join(", ")
    }))
}

/// Those of `keys` that have signed an envelope.
///
/// # Errors
/// [`SignError::Envelope`] or [`SignError::Type`].
pub fn signers(expected: &'static str, envelope: &[u8], keys: &[PublicKey]) -> Result<Vec<PublicKey>, SignError> {
    let opened = Opened::of(expected, envelope)?;
    Ok(keys.iter().copied().filter(|key| opened.is_signed_by(key)).collect())
}

/// An envelope that was taken apart, and of which nothing is verified.
struct Opened {
    payload: Vec<u8>,
    message: Vec<u8>,
    signatures: Vec<Signature>,
    /// Who says to have signed it, for people.
    names: Vec<String>,
}

impl Opened {
    fn of(expected: &'static str, envelope: &[u8]) -> Result<Self, SignError> {
        if envelope.len() > ENVELOPE_BYTES_MAX {
            return Err(SignError::Envelope(format!("longer than {ENVELOPE_BYTES_MAX} bytes")));
        }
        let parsed: Envelope =
            serde_json::from_slice(envelope).map_err(|error| SignError::Envelope(error.to_string()))?;
        if parsed.payload_type != expected {
            return Err(SignError::Type {
                expected,
                found: parsed.payload_type.chars().take(80).collect(),
            });
        }
        let payload = BASE64
            .decode(&parsed.payload)
            .map_err(|error| SignError::Envelope(error.to_string()))?;
        let message = pre_authentication(expected, &payload);
        let signatures: Vec<Signature> = parsed
            .signatures
            .iter()
            .take(16)
            .filter_map(|signature| BASE64.decode(&signature.sig).ok())
            .filter_map(|bytes| Signature::from_slice(&bytes).ok())
            .collect();
        let names = parsed.signatures.iter().take(4);
        let names = names.map(|s| s.keyid.chars().take(80).flat_map(char::escape_debug).collect());
        Ok(Self {
            payload,
            message,
            signatures,
            names: names.collect(),
        })
    }

    /// The key id is a hint for people; only the key itself decides.
    fn is_signed_by(&self, key: &PublicKey) -> bool {
        let verifies = |signature: &Signature| key.0.verify_strict(&self.message, signature).is_ok();
        self.signatures.iter().any(verifies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "application/x-test";

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_random([seed; 32])
    }

    #[test]
    fn keys_round_trip_as_text() {
        let secret = key(1);
        let again: SecretKey = secret.to_secret_text().parse().unwrap();
        assert_eq!(again.public(), secret.public());
        assert_eq!(secret.public().to_string().parse(), Ok(secret.public()));
        assert!(!format!("{secret:?}").contains(&"01".repeat(32)));
        for wrong in [
            "",
            "ed25519:",
            "ed25519:zz",
            "rsa:00",
            &format!("ed25519:{}", "0".repeat(63)),
        ] {
            assert!(wrong.parse::<PublicKey>().is_err() && wrong.parse::<SecretKey>().is_err());
        }
    }

    #[test]
    fn only_an_untouched_envelope_of_a_trusted_key_opens() {
        let (ours, theirs) = (key(1), key(2));
        let sealed = seal(TYPE, b"payload", &[&ours]);
        assert_eq!(
            open_sealed(TYPE, &sealed, &[theirs.public(), ours.public()]),
            Ok(b"payload".to_vec())
        );
        assert!(matches!(
            open_sealed(TYPE, &sealed, &[theirs.public()]),
            Err(SignError::Untrusted(_))
        ));
        assert!(matches!(open_sealed(TYPE, &sealed, &[]), Err(SignError::Untrusted(_))));
        assert!(matches!(
            open_sealed("other", &sealed, &[ours.public()]),
            Err(SignError::Type { .. })
        ));
        // Every byte of the payload and of the signature counts.
        let text = String::from_utf8(sealed).unwrap();
        let swapped = text.replace(&BASE64.encode("payload"), &BASE64.encode("Payload"));
        assert!(matches!(
            open_sealed(TYPE, swapped.as_bytes(), &[ours.public()]),
            Err(SignError::Untrusted(_))
        ));
        for cut in 0..text.len() {
            assert!(open_sealed(TYPE, &text.as_bytes()[..cut], &[ours.public()]).is_err());
        }
    }

    #[test]
    fn two_keys_sign_so_that_a_key_can_be_replaced() {
        let (old, new) = (key(1), key(2));
        let sealed = seal(TYPE, b"x", &[&old, &new]);
        assert!(open_sealed(TYPE, &sealed, &[old.public()]).is_ok());
        assert!(open_sealed(TYPE, &sealed, &[new.public()]).is_ok());
    }
}
