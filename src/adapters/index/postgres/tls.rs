//! TLS: what the URL asks for, whose certificates are trusted, and what it means that one is not.
//!
//! The driver knows fewer parameters than `libpq` and never connects to a server that it does not trust: `require` checks
//! certificate and name as `verify-full` does. The parameters `sslmode` and `sslrootcert` are therefore read here.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::OpenError;

/// A URL in which only parameters of the driver are left.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// For the driver. May contain a password.
    pub(super) url: String,
    /// Whether the URL says something about TLS.
    pub(super) names_mode: bool,
    /// Certificates of authorities, as PEM; none for those of this machine.
    pub(super) authorities: Option<PathBuf>,
}

/// Reads the parameters about TLS of a URL.
pub(super) fn address(url: &str) -> Result<Address, OpenError> {
    // What precedes the host may contain a question mark.
    let host = url.find('@').unwrap_or(0);
    let Some(mark) = url[host..].find('?').map(|at| host + at) else {
        return Ok(Address {
            url: url.to_owned(),
            names_mode: false,
            authorities: None,
        });
    };
    let (mut names_mode, mut authorities) = (false, None);
    let mut kept = Vec::new();
    for parameter in url[mark + 1..].split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match (name, value) {
            ("sslmode", "disable" | "prefer") => {
                names_mode = true;
                kept.push(parameter);
            }
            ("sslmode", "require" | "verify-ca" | "verify-full") => {
                names_mode = true;
                kept.push("sslmode=require");
            }
            ("sslmode", _) => return Err(OpenError::SslMode),
            ("sslrootcert", "system") => authorities = None,
            ("sslrootcert", path) => {
                let path = percent_decode_str(path).decode_utf8();
                authorities = Some(PathBuf::from(&*path.map_err(|_| OpenError::Url)?));
            }
            _ => kept.push(parameter),
        }
    }
    let parameters = kept.join("&");
    Ok(Address {
        url: match parameters.as_str() {
            "" => url[..mark].to_owned(),
            parameters => format!("{}?{parameters}", &url[..mark]),
        },
        names_mode,
        authorities,
    })
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_about_tls_are_read_and_others_are_left() {
        for (url, left, names_mode, authorities) in [
            ("postgres://a@b/c", "postgres://a@b/c", false, None),
            (
                "postgres://a@b/c?sslmode=require",
                "postgres://a@b/c?sslmode=require",
                true,
                None,
            ),
            (
                "postgres://a@b/c?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem&options=x",
                "postgres://a@b/c?sslmode=require&options=x",
                true,
                Some("/etc/ca.pem"),
            ),
            (
                "postgres://a@b/c?sslrootcert=ca.pem",
                "postgres://a@b/c",
                false,
                Some("ca.pem"),
            ),
            (
                "postgres://a@b/c?sslmode=disable&sslrootcert=system",
                "postgres://a@b/c?sslmode=disable",
                true,
                None,
            ),
            // A password, not a parameter.
            (
                "postgres://a:?sslmode=disable@b/c",
                "postgres://a:?sslmode=disable@b/c",
                false,
                None,
            ),
        ] {
            let read = address(url).unwrap();
            let expected = Address {
                url: left.to_owned(),
                names_mode,
                authorities: authorities.map(PathBuf::from),
            };
            assert_eq!(read, expected, "{url}");
        }
        for mode in ["allow", "verify_full", ""] {
            let read = address(&format!("postgres://a@b/c?sslmode={mode}"));
            assert!(matches!(read, Err(OpenError::SslMode)), "{mode}");
        }
    }
}
