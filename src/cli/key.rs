//! `copilotd key create` without a server.
//!
//! The table for the configuration goes to standard output. The key itself is printed beside it only on a terminal,
//! else on standard error. So `copilotd key create … >> copilotd.toml` writes no secret into the file, and `2> key.txt`
//! or `--secret-file` saves the key.

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::args::Scope;
use super::{Failure, print, print_stderr};
use crate::http::credentials::{Scopes, new_api_key};
use crate::private_files;

pub(super) fn create(
    name: &str,
    scopes: &[Scope],
    expires: Option<Timestamp>,
    secret_file: Option<&Path>,
) -> Result<(), Failure> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        return Err(Failure::usage(
            "--name must be 1 to 64 characters of a-z, A-Z, 0-9, -, _ and .",
        ));
    }
    let secret_file = secret_file.map(SecretFile::create).transpose()?;
    let (key, hash) = new_api_key();
    let names: Vec<String> = Scope::set(scopes).names().map(|name| format!("\"{name}\"")).collect();
    let end = expires
        .map(|end| format!("expires_at = \"{end}\"\n"))
        .unwrap_or_default();
    let operator = if Scope::set(scopes).contains(Scopes::OPERATOR) {
        "# The scope operator is granted only in a tenant with operator = true.\n"
    } else {
        ""
    };
    let table = format!(
        "{operator}[[tenants.api_keys]]\nname = \"{name}\"\nhash = \"{hash}\"\nscopes = [{}]\n{end}",
        names.join(", ")
    );
    match secret_file {
        Some(file) => file.write(&key)?,
        None if std::io::stdout().is_terminal() => {
            return print(&format!(
                "# The key; it is not shown again:\n# {}\n{table}",
                key.expose_secret()
            ));
        }
        None => print_stderr(&format!("The key; it is not shown again:\n{}", key.expose_secret())),
    }
    print(&table)
}

/// A new file for a key, readable only by this user. It is created before the key, so that no key is created that
/// cannot be saved.
pub(super) struct SecretFile<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> SecretFile<'a> {
    pub fn create(path: &'a Path) -> Result<Self, Failure> {
        let file = private_files::create_new(path).map_err(|error| unwritable(path, &error))?;
        Ok(Self { path, file })
    }

    pub fn write(mut self, key: &SecretString) -> Result<(), Failure> {
        writeln!(self.file, "{}", key.expose_secret()).map_err(|error| unwritable(self.path, &error))
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot write the key to {}: {error}", path.display()))
}
