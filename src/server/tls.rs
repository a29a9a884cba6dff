//! TLS by rustls, with ring as its one crypto provider.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::Ticketer;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Accepts TLS 1.2 and 1.3 with this certificate chain and key, both PEM.
///
/// # Errors
/// A file that cannot be read or holds no PEM of its kind, or a key that does not belong to the certificate; the text
/// names the setting and the file.
pub(super) fn acceptor(certificate: &Path, key: &Path) -> io::Result<TlsAcceptor> {
    let bad = |setting: &str, file: &Path, why: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{setting}: {}: {why}", file.display()))
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| bad("server.tls.certificate", certificate, &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad("server.tls.key", key, &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error| bad("server.tls.certificate with server.tls.key", certificate, &error))?;
    // Sessions are kept by the clients, not here: however many there are, whoever comes back needs no full handshake (RFC
    // 8446 §2.2). The keys of the tickets are random, change every six hours, and are gone with the process.
    config.ticketer = Ticketer::new().map_err(|error| io::Error::other(format!("keys for TLS tickets: {error}")))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
