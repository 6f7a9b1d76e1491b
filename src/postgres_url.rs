//! The URL of a PostgreSQL server, as an operator writes it and as the driver takes it.
//!
//! The driver knows fewer parameters than `libpq`, and never connects to a server that it does not trust: `require` checks
//! certificate and name as `verify-full` does. The parameters `sslmode` and `sslrootcert` are therefore read here.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;

/// What a URL says.
#[derive(Debug, Clone)]
pub struct PostgresUrl {
    /// For the driver; names at least one host.
    pub driver: Config,
    /// Whether the URL says something about TLS.
    pub names_mode: bool,
    /// Certificates of authorities, as PEM; none for those of this machine.
    pub authorities: Option<PathBuf>,
}

/// Why a URL is refused. The texts do not quote it: it may contain a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is none.
    #[error("not a valid PostgreSQL URL: expected postgres://USER:PASSWORD@HOST/DATABASE")]
    Invalid,
    /// It asks for an unknown kind of TLS.
    #[error("sslmode in a PostgreSQL URL must be disable, prefer, require, verify-ca or verify-full")]
    SslMode,
}

/// Reads a URL.
///
/// # Errors
/// If it is none, names no host, or has a parameter that is not supported.
pub fn parse(url: &str) -> Result<PostgresUrl, UrlError> {
    // What precedes the host may contain a question mark.
    let host = url.find('@').unwrap_or(0);
    let mark = url[host..].find('?').map_or(url.len(), |at| host + at);
    let (place, parameters) = (&url[..mark], url[mark..].trim_start_matches('?'));
    let (mut names_mode, mut authorities) = (false, None);
    let mut kept = Vec::new();
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
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
            ("sslmode", _) => return Err(UrlError::SslMode),
            ("sslrootcert", "system") => authorities = None,
            ("sslrootcert", path) => {
                let path = percent_decode_str(path).decode_utf8();
                authorities = Some(PathBuf::from(&*path.map_err(|_| UrlError::Invalid)?));
            }
            _ => kept.push(parameter),
        }
    }
    let driver: Result<Config, _> = format!("{place}?{}", kept.join("&")).parse();
    let driver = driver.map_err(|_| UrlError::Invalid)?;
    if driver.get_hosts().is_empty() {
        return Err(UrlError::Invalid);
    }
    Ok(PostgresUrl {
        driver,
        names_mode,
        authorities,
    })
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::SslMode;

    use super::*;

    #[test]
    fn parameters_about_tls_are_read() {
        for (parameters, mode, names_mode, authorities) in [
            ("", SslMode::Prefer, false, None),
            ("?", SslMode::Prefer, false, None),
            ("?sslmode=require", SslMode::Require, true, None),
            ("?sslmode=verify-ca", SslMode::Require, true, None),
            (
                "?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem&application_name=x",
                SslMode::Require,
                true,
                Some("/etc/ca.pem"),
            ),
            ("?sslrootcert=ca.pem", SslMode::Prefer, false, Some("ca.pem")),
            ("?sslmode=disable&sslrootcert=system", SslMode::Disable, true, None),
        ] {
            let read = parse(&format!("postgres://a@b/c{parameters}")).unwrap();
            assert_eq!(read.driver.get_ssl_mode(), mode, "{parameters}");
            assert_eq!(read.names_mode, names_mode, "{parameters}");
            assert_eq!(read.authorities, authorities.map(PathBuf::from), "{parameters}");
            let name = parameters.contains("application_name").then_some("x");
            assert_eq!(read.driver.get_application_name(), name);
        }
        // A password, not a parameter.
        let read = parse("postgres://a:?sslmode=disable@b/c").unwrap();
        assert!(!read.names_mode);
        assert_eq!(read.driver.get_password(), Some(&b"?sslmode=disable"[..]));
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for mode in ["allow", "verify_full", ""] {
            let read = parse(&format!("postgres://a@b/c?sslmode={mode}"));
            assert_eq!(read.unwrap_err(), UrlError::SslMode, "{mode}");
        }
        for url in [
            "",
            "nonsense",
            "postgres://",
            "postgres://a@b:port/c",
            "postgres://a@b/c?sslcert=x",
        ] {
            assert_eq!(parse(url).unwrap_err(), UrlError::Invalid, "{url}");
        }
    }
}
