//! Encrypted connections: rustls, certificates that can be replaced while serving, HTTP/2 through hyper.
//!
//! What a client may choose is HTTP/2, carried by hyper, or HTTP/1.1, carried by our own engine with the same
//! strictness as on plain sockets. Either way the same [`Service`](crate::Service) answers.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::access_log::{Visit, Visitor};
use crate::admission::Place;
use crate::body::ServeBody;
use crate::engine::{Connection, Shared, Socket, is_for_nodes};
use crate::request::{Client, Fields, Request};
use crate::service::Service;
use crate::stream::Watched;

const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";
/// A client of HTTP/2 whose idle connection is to be closed has so long to take leave.
const GOODBYE_TIME: Duration = Duration::from_millis(500);

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
        config.alpn_protocols = vec![HTTP_2.to_vec(), HTTP_1.to_vec()];
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
    if stream.get_ref().1.alpn_protocol() == Some(HTTP_2) {
        Box::pin(carry_http2(stream, address, shared, place)).await;
    } else {
        let socket = Socket::Tls(Box::new(stream));
        Connection::new(socket, Some(address), shared, place).carry().await;
    }
}

/// Whether the first byte is that of a method, which no record of TLS begins with.
async fn begins_plain(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let peeked = stream.peek(&mut first).await?;
    Ok(peeked == 1 && first[0].is_ascii_uppercase())
}

async fn carry_http2(stream: TlsStream<TcpStream>, address: IpAddr, shared: Arc<Shared>, place: Arc<Place>) {
    let limits = &shared.limits;
    let first = Arc::clone(&shared.services.borrow());
    let _open = first.counters().count_connection();
    // Requests so far: whether a connection is idle is whether there were none lately and none run.
    let (begun, running) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let answer = service_fn(|request: http::Request<hyper::body::Incoming>| {
        begun.fetch_add(1, Ordering::Relaxed);
        let running = Running::one_more(&running, &place);
        let (shared, place) = (Arc::clone(&shared), Arc::clone(&place));
        async move { Ok::<_, Infallible>(answer_http2(request, address, &shared, &place, running).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        .keep_alive_interval(limits.idle_timeout)
        .keep_alive_timeout(limits.write_timeout)
        .serve_connection(TokioIo::new(Watched::new(stream, limits.write_timeout)), answer);
    let mut connection = std::pin::pin!(connection);
    let mut seen = 0;
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = shared.stopping.stopped() => {
                connection.as_mut().graceful_shutdown();
                break connection.await;
            }
            () = place.told() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => break ended,
                    () = without_requests(&running) => return,
                }
            }
            () = tokio::time::sleep(limits.idle_timeout) => {
                let now = begun.load(Ordering::Relaxed);
                if now == seen && running.load(Ordering::Relaxed) == 0 {
                    connection.as_mut().graceful_shutdown();
                    break connection.await;
                }
                seen = now;
            }
        }
    };
    if let Err(error) = ended {
        // Clients come and go; what matters was logged where it happened.
        tracing::debug!(%address, %error, "a connection ended early");
    }
}

/// Ready some time after the last request was answered: the client had its time to take leave.
async fn without_requests(running: &AtomicUsize) {
    loop {
        tokio::time::sleep(GOODBYE_TIME).await;
        if running.load(Ordering::Relaxed) == 0 {
            return;
        }
    }
}

/// A request of HTTP/2 that is not answered to its end.
pub(crate) struct Running {
    count: Arc<AtomicUsize>,
    place: Arc<Place>,
}

impl Running {
    fn one_more(count: &Arc<AtomicUsize>, place: &Arc<Place>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        if place.works() {
            // It is still to end, behind this request.
            place.leaves();
        }
        Self {
            count: Arc::clone(count),
            place: Arc::clone(place),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Another request may begin in this moment. If the connection is closed for it, that one is answered first.
            self.place.waits(tokio::time::Instant::now());
        }
    }
}

/// The answer to a request that is one too many.
async fn unadmitted_http2(
    request: &http::Request<hyper::body::Incoming>,
    client: &Client,
    service: &Service,
    shared: &Shared,
    place: &Place,
) -> Option<http::Response<ServeBody>> {
    let admission = &shared.admission;
    if admission.claims_place() {
        place.leaves();
    }
    if place.is_reserved() && !is_for_nodes(request.uri().path()) && !place.settle().await {
        return Some(service.turn_away());
    }
    let address = client.address.filter(|_| admission.limits_requests())?;
    // A proxy that asks for itself is not limited.
    if service.proxies().contains(address) {
        return None;
    }
    let wait = admission.take_request(address).err()?;
    let parsed = Request::new(request.method(), request.uri(), request.headers());
    if service.is_of_node(&parsed, client) {
        return None;
    }
    admission.count_limited(address);
    Some(service.too_many(wait))
}

async fn answer_http2(
    mut request: http::Request<hyper::body::Incoming>,
    address: IpAddr,
    shared: &Shared,
    place: &Place,
    running: Running,
) -> http::Response<ServeBody> {
    let begun = std::time::Instant::now();
    let service = Arc::clone(&shared.services.borrow());
    let address = service.proxies().client(address, &Fields::new(request.headers()));
    let visit = service.access_log().map(|log| {
        let field = |name| request.headers().get(name).map(http::HeaderValue::as_bytes);
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let visitor = Visitor {
            address: Some(address),
            request: &[request.method().as_str(), target, "HTTP/2.0"].map(str::as_bytes),
            host: request.uri().host(),
            referer: field(http::header::REFERER),
            agent: field(http::header::USER_AGENT),
            begun,
        };
        Visit::new(log, &visitor)
    });
    let client = Client {
        address: Some(address),
        is_private: true,
        is_local: false,
    };
    request.extensions_mut().insert(client);
    let answer = match unadmitted_http2(&request, &client, &service, shared, place).await {
        Some(refusal) => refusal,
        None => service.handle(request, &shared.stopping).await,
    };
    let status = answer.status();
    answer.map(|body| {
        let body = body.until_end(running);
        match visit {
            Some(mut visit) => {
                visit.answered(status);
                body.reader().into_iter().for_each(|reader| visit.reads(reader));
                body.logged(visit)
            }
            None => body,
        }
    })
}
