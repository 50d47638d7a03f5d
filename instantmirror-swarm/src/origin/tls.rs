//! TLS towards masters, trackers and proxies: whom to believe, and what to say of whom not to.
//!
//! Key decision: a certificate that is configured byte for byte is believed for itself, as long as it is valid and names the
//! host, as curl has it. Reason: `openssl req -x509` marks what it makes as the certificate of an authority, which webpki takes
//! from no server (RFC 5280, 4.2.1.9), so that the usual certificate of one machine could be configured and not be used.

use std::error::Error;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// What a connection is made with: `authorities` are believed besides those of the system, `identity` is our certificate with
/// its chain and its private key, all PEM.
pub(super) fn config(authorities: &[u8], identity: Option<&[u8]>) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Verifier::new(authorities, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        // It is rustls' own verifier, behind ours.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let wrong = |error: &dyn Error| format!("the client's certificate and key: {error}");
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            let chain = chain.map_err(|error| wrong(&error))?;
            let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| wrong(&error))?;
            let config = builder.with_client_auth_cert(chain, key);
            config.map_err(|error| wrong(&error))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Believes authorities, and the certificates that are configured for themselves.
#[derive(Debug)]
struct Verifier {
    /// Absent if no authority is known.
    by_authorities: Option<Arc<WebPkiServerVerifier>>,
    configured: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(authorities: &[u8], provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            tracing::debug!("certificates of the system's authorities: {error}");
        }
        Self::believing(authorities, system.certs, provider)
    }

    fn believing(
        authorities: &[u8],
        system: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let wrong = |error: &dyn Error| format!("the authorities' certificates: {error}");
        let configured: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(authorities).collect();
        let configured = configured.map_err(|error| wrong(&error))?;
        if configured.is_empty() && !authorities.is_empty() {
            return Err("no certificate of an authority: one in PEM form is expected".to_owned());
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(system);
        for certificate in &configured {
            roots.add(certificate.clone()).map_err(|error| wrong(&error))?;
        }
        let by_authorities = if roots.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
            Some(builder.build().map_err(|error| wrong(&error))?)
        };
        Ok(Self {
            by_authorities,
            configured,
            provider: Arc::clone(provider),
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(by_authorities) = &self.by_authorities else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let verified = by_authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // Both are found after the time was looked at: who has issued it, and what it is for.
            Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_)))
                if self.configured.iter().any(|configured| configured == end_entity) =>
            {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                verify_server_name(&certificate, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Why a request failed, for a person. The innermost cause says most ("connection refused" rather than "error sending
/// request"); of a certificate it is said what to do.
pub(crate) fn reason_of(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    loop {
        if let Some(words) = tls_error_in(cause).and_then(words) {
            return words;
        }
        match cause.source() {
            Some(inner) => cause = inner,
            None => return cause.to_string(),
        }
    }
}

/// An error of TLS, in however many of the system's errors it is wrapped: what is inside of those is no `source` of theirs.
fn tls_error_in<'a>(mut error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    loop {
        if let Some(tls) = error.downcast_ref() {
            return Some(tls);
        }
        error = error.downcast_ref::<io::Error>()?.get_ref()?;
    }
}

fn words(error: &rustls::Error) -> Option<String> {
    let rustls::Error::InvalidCertificate(error) = error else {
        return None;
    };
    const NAME_IT: &str = "if it is right, name it or its authority's in [outgoing] ca_file";
    Some(match error {
        CertificateError::UnknownIssuer => {
            format!("its certificate is from no authority that is known here; {NAME_IT}")
        }
        CertificateError::Other(why) => format!("its certificate is none of a server ({why}); {NAME_IT}"),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired, or the clock of this machine is wrong".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or the clock of this machine is wrong".to_owned()
        }
        other => format!("its certificate is not believed: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Made by `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj /CN=own -addext
    /// subjectAltName=DNS:own.example,IP:192.0.2.1`: it says `CA:TRUE`.
    const OWN: &[u8] = include_bytes!("tls_tests/own.pem");
    /// The same with `basicConstraints=critical,CA:FALSE`, signed by `AUTHORITY`, for the same names.
    const LEAF: &[u8] = include_bytes!("tls_tests/leaf.pem");
    const AUTHORITY: &[u8] = include_bytes!("tls_tests/authority.pem");
    /// A day on which they are valid.
    const TODAY: u64 = 1_800_000_000;

    fn verify(configured: &[u8], shown: &[u8], name: &str, now: u64) -> Result<(), String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Verifier::believing(configured, Vec::new(), &provider).unwrap();
        let shown = CertificateDer::from_pem_slice(shown).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let verified = verifier.verify_server_cert(&shown, &[], &name, &[], now);
        // Connectors wrap it once more, or twice.
        verified
            .map(drop)
            .map_err(|error| reason_of(&io::Error::other(io::Error::other(error))))
    }

    #[test]
    fn a_certificate_that_is_configured_is_believed_for_itself_and_for_its_names() {
        assert_eq!(verify(OWN, OWN, "own.example", TODAY), Ok(()));
        assert_eq!(verify(OWN, OWN, "192.0.2.1", TODAY), Ok(()));
        // Whoever has issued it.
        assert_eq!(verify(LEAF, LEAF, "own.example", TODAY), Ok(()));
        assert_eq!(verify(AUTHORITY, LEAF, "own.example", TODAY), Ok(()));
        for (configured, shown, name, now, said) in [
            (OWN, OWN, "other.example", TODAY, "other.example"),
            (LEAF, LEAF, "192.0.2.2", TODAY, "192.0.2.2"),
            (OWN, OWN, "own.example", 10, "not valid yet"),
            (LEAF, LEAF, "own.example", 10, "not valid yet"),
            (OWN, OWN, "own.example", 1 << 40, "expired"),
            // Not for what it has not issued, and not by what is not configured.
            (LEAF, OWN, "own.example", TODAY, "ca_file"),
            (OWN, LEAF, "own.example", TODAY, "ca_file"),
            (AUTHORITY, OWN, "own.example", TODAY, "ca_file"),
            (b"", LEAF, "own.example", TODAY, "ca_file"),
        ] {
            let error = verify(configured, shown, name, now).unwrap_err();
            assert!(error.contains(said), "{said}: {error}");
        }
    }

    #[test]
    fn what_is_no_certificate_or_key_is_said() {
        let error = config(b"no certificate", None).unwrap_err();
        assert!(error.contains("one in PEM form is expected"), "{error}");
        let broken = b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        assert!(config(broken, None).unwrap_err().contains("the authorities'"));
        let error = config(b"", Some(LEAF)).unwrap_err();
        assert!(error.contains("the client's certificate and key"), "{error}");
        assert_eq!(config(OWN, None).unwrap().alpn_protocols, [b"http/1.1"]);
    }

    #[test]
    fn the_innermost_cause_is_told() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(reason_of(&io::Error::other(refused)), "connection refused");
    }
}
