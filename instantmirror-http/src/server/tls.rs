//! Encrypted connections: rustls, and certificates that can be replaced while serving.
//!
//! What a client may choose is HTTP/2 (`h2`) or HTTP/1.1, carried by the [engine](crate::h1) with the same
//! strictness as on plain sockets. Either way the same [`Service`](crate::Service) answers.

use std::io;
use std::net::IpAddr;
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
use crate::connection::{ResetAtEnd, Shared};
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

impl ResetAtEnd for TlsStream<TcpStream> {
    fn reset_at_end(&self) {
        self.get_ref().0.reset_at_end();
    }
}

impl Encrypted for TlsStream<TcpStream> {}

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

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Command;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::watch;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    use super::*;
    use crate::admission::Admission;
    use crate::limits::{Limits, Stopping};
    use crate::service::Service;

    /// A certificate for `mirror`, and a client that trusts it.
    fn certified() -> (Arc<Tls>, TlsConnector) {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("certificate.pem"), dir.path().join("key.pem"));
        let options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=mirror \
                       -addext subjectAltName=DNS:mirror -addext basicConstraints=critical,CA:FALSE";
        let mut openssl = Command::new("openssl");
        openssl.args(options.split_whitespace());
        let made = openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate).output();
        assert!(made.unwrap().status.success());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&certificate).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let client = builder.with_root_certificates(roots).with_no_client_auth();
        (
            Tls::load(&certificate, &key).unwrap(),
            TlsConnector::from(Arc::new(client)),
        )
    }

    /// Its goodbye has to be written, and there is no room for it.
    #[tokio::test]
    async fn a_client_that_never_reads_is_not_waited_for_at_the_end() {
        let (tls, connector) = certified();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (near, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        let mut beneath = near.try_clone().unwrap();
        let (_sender, services) = watch::channel(Arc::new(Service::new(Arc::new(instantmirror_core::memory::Nothing))));
        let limits = Limits::default();
        let time = limits.idle_timeout;
        let admission = Admission::new(&limits);
        let place = Arc::new(admission.admit_anyway());
        let shared = Arc::new(Shared {
            services,
            limits,
            admission,
            background: None,
            stopping: Stopping::never(),
        });
        let near = TcpStream::from_std(near).unwrap();
        let served = tokio::spawn(async move { carry(near, &tls, [127, 0, 0, 1].into(), shared, place).await });
        let mut client = connector.connect("mirror".try_into().unwrap(), far).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        assert!(client.read(&mut [0; 4096]).await.unwrap() > 0);
        // The kernels of both sides have room for a while.
        let mut rounds_without_room = 0;
        while rounds_without_room < 10 {
            rounds_without_room += 1;
            while beneath.write(&[0; 65536]).is_ok() {
                rounds_without_room = 0;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::pause();
        let begun = tokio::time::Instant::now();
        tokio::time::timeout(Duration::from_secs(3600), served)
            .await
            .expect("it is waited for")
            .unwrap();
        assert!(
            begun.elapsed() <= time + Duration::from_secs(11),
            "{:?}",
            begun.elapsed()
        );
    }
}
