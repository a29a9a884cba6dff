//! TLS by rustls, with ring as its one crypto provider.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::broker::mqtt::settings::Settings;

/// What the settings ask for; or which one is wrong, and why.
pub(super) fn config(settings: &Settings) -> Result<ClientConfig, (&'static str, String)> {
    const CA: &str = "broker.mqtt.ca";
    const CERTIFICATE: &str = "broker.mqtt.certificate";
    let bad = |key, path: &Path, why: &dyn std::fmt::Display| (key, format!("{}: {why}", path.display()));
    let chain = |key, path: &Path| -> Result<Vec<CertificateDer<'static>>, (&'static str, String)> {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(chain) if chain.is_empty() => Err(bad(key, path, &"there is no certificate in it")),
            Ok(chain) => Ok(chain),
            Err(why) => Err(bad(key, path, &why)),
        }
    };
    let mut roots = RootCertStore::empty();
    match &settings.ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            for certificate in chain(CA, path)? {
                roots.add(certificate).map_err(|why| bad(CA, path, &why))?;
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|why| (CA, why.to_string()))?
        .with_root_certificates(roots);
    match settings.certificate.as_deref().zip(settings.key.as_deref()) {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|why| bad("broker.mqtt.key", key, &why))?;
            let chain = chain(CERTIFICATE, certificate)?;
            builder.with_client_auth_cert(chain, private).map_err(|why| bad(CERTIFICATE, certificate, &why))
        }
    }
}
