//! Encrypted connections: rustls, and certificates that can be replaced while serving.
//!
//! What a client may choose is HTTP/2 (`h2`) or HTTP/1.1, carried by the [engine](crate::h1) with the same
//! strictness as on plain sockets. Either way the same [`Service`](crate::Service) answers.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::admission::Place;
use crate::connection::Shared;
use crate::h1::{Connection, Encrypted, Socket};

#[cfg(feature = "http2")]
const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// Why encrypted connections cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read, or holds nothing of the kind.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key cannot be used together.
    #[error("the certificate in {} cannot be used with the key in {}: {source}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

/// A certificate with its key, for any number of listeners.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: Arc<Current>,
    config: Arc<ServerConfig>,
}

#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Tls {
    /// Reads a certificate chain and its key, both PEM.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let pair = load_pair(certificate, key)?;
        let current = Arc::new(Current(RwLock::new(Arc::new(pair))));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider);
        let unusable = |source| TlsError::Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            source,
        };
        let builder = builder.with_safe_default_protocol_versions().map_err(unusable)?;
        let resolver: Arc<dyn ResolvesServerCert> = current.clone();
        let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![
            #[cfg(feature = "http2")]
            HTTP_2.to_vec(),
            HTTP_1.to_vec(),
        ];
        Ok(Arc::new(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current,
            config: Arc::new(config),
        }))
    }

    /// Reads both files again, for connections that are made from now on.
    ///
    /// # Errors
    /// [`TlsError`]; what was there stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let pair = load_pair(&self.certificate, &self.key)?;
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
        Ok(())
    }
}

fn load_pair(certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let failed = |path: &Path, reason: String| TlsError::File {
        path: path.to_owned(),
        reason,
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate)
        .map_err(|error| failed(certificate, error.to_string()))?
        .collect();
    let chain = chain.map_err(|error| failed(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(failed(certificate, "it holds no PEM certificate".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, error.to_string()))?;
    let unusable = |source| TlsError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    };
    let private = aws_lc_rs::sign::any_supported_type(&private).map_err(unusable)?;
    let pair = CertifiedKey::new(chain, private);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(pair),
        Err(source) => Err(unusable(source)),
    }
}

impl Encrypted for TlsStream<TcpStream> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.get_ref().0.as_fd()
    }
}

/// Carries one encrypted connection to its end.
pub(crate) async fn carry(stream: TcpStream, tls: &Tls, address: IpAddr, shared: Arc<Shared>, place: Arc<Place>) {
    let first = tokio::time::timeout(shared.limits.header_timeout, begins_plain(&stream));
    let Some(first) = place.unless_told(first).await else {
        return;
    };
    match first {
        Ok(Ok(true)) => {
            return Connection::new(Socket::Tcp(stream), Some(address), shared, place)
                .refuse_plain()
                .await;
        }
        Ok(Ok(false)) => {}
        Ok(Err(_)) => return,
        Err(_) => {
            shared.services.borrow().counters().count_timed_out();
            return;
        }
    }
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&tls.config));
    let handshake = tokio::time::timeout(shared.limits.header_timeout, acceptor.accept(stream));
    let Some(shaken) = place.unless_told(handshake).await else {
        return;
    };
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a handshake failed");
            return;
        }
        Err(_) => {
            shared.services.borrow().counters().count_timed_out();
            return;
        }
    };
    #[cfg(feature = "http2")]
    if stream.get_ref().1.alpn_protocol() == Some(HTTP_2) {
        return Box::pin(crate::h2::carry(stream, address, shared, place)).await;
    }
    let socket = Socket::Tls(Box::new(stream));
    Connection::new(socket, Some(address), shared, place).carry().await;
}

/// Whether the first byte is that of a method, which no record of TLS begins with.
async fn begins_plain(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let peeked = stream.peek(&mut first).await?;
    Ok(peeked == 1 && first[0].is_ascii_uppercase())
}
