//! TLS: whose certificates are trusted, and what it means that one is not.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::OpenError;

/// Returns what makes connections secure.
pub(super) fn connector(authorities: Option<PathBuf>) -> Result<MakeRustlsConnect, OpenError> {
    let Some(path) = authorities else {
        let (tls, _some_unreadable) = MakeRustlsConnect::with_native_certs().map_err(|_| OpenError::Certificates)?;
        return Ok(tls);
    };
    let mut roots = RootCertStore::empty();
    if let Ok(certificates) = CertificateDer::pem_file_iter(&path) {
        roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    }
    if roots.is_empty() {
        return Err(OpenError::Authorities { path });
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions.map_err(|_| OpenError::Certificates)?;
    Ok(MakeRustlsConnect::new(
        config.with_root_certificates(roots).with_no_client_auth(),
    ))
}

/// Returns why the server's certificate is not trusted, if that is what an error says.
pub(super) fn distrusted(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        // `source` of this one leaves out what it holds itself.
        let held = error
            .downcast_ref::<io::Error>()
            .and_then(|error| error.get_ref())
            .and_then(|held| held.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(cause)) = held.or(error.downcast_ref()) {
            return Some(match cause {
                // The latter by one that has the name of a known one.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    "it was issued by an unknown authority".to_owned()
                }
                cause => cause.to_string(),
            });
        }
        next = error.source();
    }
    None
}
