//! HTTP clients of the gateway's own: one TLS stack, and one way to say whom to trust.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// What calls services, over HTTP/1.1 with or without TLS.
pub(crate) type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// How services are called.
pub(crate) struct Options<'a> {
    /// PEM file with the certificates that sign the service's; those of the public web without it.
    pub(crate) ca: Option<&'a Path>,
    /// Time for a connection to be made.
    pub(crate) connect_timeout: Duration,
    /// Connections that are kept open while nothing is called.
    pub(crate) max_idle: usize,
    /// Time for which they are kept.
    pub(crate) idle_timeout: Duration,
}

/// A client. The error says what is wrong with the certificates.
pub(crate) fn client(options: &Options<'_>) -> Result<HttpClient, String> {
    let provider = rustls::crypto::ring::default_provider();
    let builder = HttpsConnectorBuilder::new();
    let builder = match options.ca {
        None => builder.with_provider_and_webpki_roots(provider).map_err(|error| error.to_string())?,
        Some(file) => {
            let config = ClientConfig::builder_with_provider(Arc::new(provider))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?;
            builder.with_tls_config(config.with_root_certificates(roots(file)?).with_no_client_auth())
        }
    };
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(options.connect_timeout));
    let mut pool = Client::builder(TokioExecutor::new());
    pool.pool_timer(TokioTimer::new());
    pool.pool_max_idle_per_host(options.max_idle).pool_idle_timeout(options.idle_timeout);
    Ok(pool.build(builder.https_or_http().enable_http1().wrap_connector(connector)))
}

/// The certificates of a PEM file.
fn roots(file: &Path) -> Result<RootCertStore, String> {
    let bad = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| bad(&error))? {
        let added = roots.add(certificate.map_err(|error| bad(&error))?);
        added.map_err(|error| bad(&error))?;
    }
    Ok(roots)
}
