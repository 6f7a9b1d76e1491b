//! `copilotd key create` without a server.

use jiff::Timestamp;
use secrecy::ExposeSecret;

use super::args::Scope;
use super::{Failure, print};
use crate::http::auth::{Scopes, new_api_key};

pub(super) fn create(name: &str, scopes: &[Scope], expires: Option<Timestamp>) -> Result<(), Failure> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        return Err(Failure::usage(
            "a name has 1 to 64 characters of a-z, A-Z, 0-9, -, _ and .",
        ));
    }
    let (key, hash) = new_api_key();
    let names: Vec<String> = Scope::set(scopes).names().map(|name| format!("\"{name}\"")).collect();
    let end = expires
        .map(|end| format!("expires_at = \"{end}\"\n"))
        .unwrap_or_default();
    let operator = if Scope::set(scopes).contains(Scopes::OPERATOR) {
        "# The scope operator counts only in a tenant with operator = true.\n"
    } else {
        ""
    };
    print(&format!(
        "# The key, shown this once:\n# {}\n{operator}[[tenants.api_keys]]\nname = \"{name}\"\nhash = \"{hash}\"\nscopes = [{}]\n{end}",
        key.expose_secret(),
        names.join(", ")
    ))
}
