//! Certificates of `[http.tls]`, where the feature `tls` is there, and an error that names the feature where it is not.

use std::sync::Arc;

use instantmirror_http::Tls;

use crate::config::TlsConfig;

#[cfg(feature = "tls")]
pub use instantmirror_http::TlsError;

/// Why encrypted connections cannot be served: this program was built without the feature `tls`.
#[cfg(not(feature = "tls"))]
#[derive(Debug, thiserror::Error)]
#[error("[http.tls] cannot be served: this program was built without the feature `tls`")]
#[non_exhaustive]
pub struct TlsError;

/// Reads certificate and key.
#[cfg(feature = "tls")]
pub(crate) fn load(config: &TlsConfig) -> Result<Arc<Tls>, TlsError> {
    Tls::load(&config.certificate, &config.key)
}

#[cfg(not(feature = "tls"))]
pub(crate) fn load(_: &TlsConfig) -> Result<Arc<Tls>, TlsError> {
    Err(TlsError)
}

/// Reads both again, for connections that are made from now on.
#[cfg(feature = "tls")]
pub(crate) fn reload(tls: &Tls) -> Result<(), TlsError> {
    tls.reload()
}

// Whether `Tls` has values is for another crate's feature to say.
#[cfg(not(feature = "tls"))]
pub(crate) fn reload(tls: &Tls) -> Result<(), TlsError> {
    let _ = tls;
    Err(TlsError)
}
