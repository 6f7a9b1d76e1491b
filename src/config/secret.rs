//! Secrets by reference: `{ env = "NAME" }`, `{ file = "path" }` or `{ value = "…" }`.
//!
//! Invariant: the environment and the files of this machine are read only for references that the configuration file
//! itself contains. A [`FileReference`] can come from a [`FileTable`] or the global part of the file, never from
//! settings that came over HTTP or from the store. Those resolve only `value`; a reference in them works only if the
//! file has the same one for the same tenant at the same [`SecretPlace`].

use serde_json::Value;

use super::env::Env;
use super::faults::Faults;
use super::file_table::FileTable;
use super::load::path_of;
use super::secret_place::{SecretPlace, visit_secrets_mut};

/// Largest secret file, in bytes, so that a wrong path does not fill the memory.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The message for a reference in settings that is not in the configuration file.
pub(crate) const NOT_FROM_FILE: &str = "give the secret as { \"value\": … }: references to the environment and to files are \
    allowed only where the configuration file has the same one";

/// A reference to the environment or to a file of this machine, from the configuration file.
pub(super) struct FileReference<'a> {
    kind: &'a str,
    argument: &'a str,
}

/// Why a secret could not be resolved.
struct Unavailable {
    message: String,
    /// The operating system's error, only for the operator of this machine.
    cause: Option<String>,
}

impl From<String> for Unavailable {
    fn from(message: String) -> Self {
        Self { message, cause: None }
    }
}

/// Replaces all references in `value`, a part of the configuration file, by the secrets; adds a fault for each that
/// cannot be resolved.
///
/// A table with the single member `env`, `file` or `value` is a reference anywhere; the schema says where one is
/// allowed.
pub(super) fn resolve_of_file(value: &mut Value, path: &str, env: &Env, faults: &mut Faults) {
    visit_secrets_mut(value, &mut |pointer, _, leaf| {
        let Some((kind, argument)) = reference(leaf) else {
            return;
        };
        let found = match kind {
            "value" => literal(argument),
            "env" | "file" => fetch(&FileReference { kind, argument }, env),
            _ => return,
        };
        put(leaf, found, &path_of(path, pointer), faults);
    });
}

/// Replaces references to the environment and to files by null, which checks ignore. Returns their pointers.
pub(super) fn skip_secrets(value: &mut Value) -> Vec<String> {
    let mut passed = Vec::new();
    visit_secrets_mut(value, &mut |pointer, _, leaf| {
        let literal = match reference(leaf) {
            Some(("env" | "file", _)) => Value::Null,
            Some(("value", text)) => text.into(),
            _ => return,
        };
        if literal.is_null() {
            passed.push(pointer.to_owned());
        }
        *leaf = literal;
    });
    passed
}

/// Puts the placeholder `text` where references were replaced by [`skip_secrets`].
pub(super) fn fill_placeholders(value: &mut Value, passed: &[String], text: &str) {
    for pointer in passed {
        if let Some(leaf) = value.pointer_mut(pointer) {
            *leaf = text.into();
        }
    }
}

/// Like [`resolve_of_file`], for settings that did not come from the file. `file` is the file's table of the same
/// tenant, if there is one.
pub(super) fn resolve_stored(value: &mut Value, path: &str, file: Option<&FileTable>, env: &Env, faults: &mut Faults) {
    visit_secrets_mut(value, &mut |pointer, place, leaf| {
        let Some((kind, argument)) = reference(leaf) else {
            return;
        };
        let found = match kind {
            "value" => literal(argument),
            "env" | "file" => match file.and_then(|file| file.reference(place, leaf)) {
                Some(reference) => fetch(&reference, env),
                None => Err(NOT_FROM_FILE.to_owned().into()),
            },
            _ => return,
        };
        put(leaf, found, &path_of(path, pointer), faults);
    });
}

fn put(leaf: &mut Value, found: Result<String, Unavailable>, path: &str, faults: &mut Faults) {
    *leaf = match found {
        Ok(secret) => Value::String(secret),
        Err(Unavailable { message, cause }) => {
            faults.add_caused(path, message, cause);
            // Later checks ignore missing values, so that one cause gives one fault.
            Value::Null
        }
    };
}

impl FileTable {
    /// Returns this table's reference that equals `wanted`, at the same place.
    pub(super) fn reference(&self, place: &SecretPlace, wanted: &Value) -> Option<FileReference<'_>> {
        let known = self.secrets().find(|(known, leaf)| known == place && *leaf == wanted);
        let (kind, argument) = reference(known?.1).filter(|(kind, _)| matches!(*kind, "env" | "file"))?;
        Some(FileReference { kind, argument })
    }
}

/// Splits a reference, an object with a single member, into its kind and argument.
pub(crate) fn reference(value: &Value) -> Option<(&str, &str)> {
    let members = value.as_object().filter(|members| members.len() == 1)?;
    let (kind, argument) = members.iter().next()?;
    let known = matches!(kind.as_str(), "env" | "file" | "value" | "kept");
    known.then_some((kind.as_str(), argument.as_str()?))
}

fn literal(secret: &str) -> Result<String, Unavailable> {
    if secret.is_empty() {
        return Err("the secret is empty".to_owned().into());
    }
    Ok(secret.to_owned())
}

fn fetch(reference: &FileReference<'_>, env: &Env) -> Result<String, Unavailable> {
    let FileReference { kind, argument } = *reference;
    let secret = if kind == "env" {
        env.get(argument)
            .ok_or_else(|| format!("the environment variable {argument} is not set or is empty"))?
            .to_owned()
    } else {
        read_file(&path_of_file(argument, env)?)?
    };
    literal(&secret)
}

/// Path prefix of systemd credentials (`LoadCredential`).
const CREDENTIALS: &str = "$CREDENTIALS_DIRECTORY/";

fn path_of_file(path: &str, env: &Env) -> Result<String, Unavailable> {
    let Some(name) = path.strip_prefix(CREDENTIALS) else {
        return Ok(path.to_owned());
    };
    match env.get("CREDENTIALS_DIRECTORY") {
        Some(directory) => Ok(format!("{}/{name}", directory.trim_end_matches('/'))),
        None => Err(format!(
            "{path} needs CREDENTIALS_DIRECTORY, which is not set: systemd sets it for units with LoadCredential"
        )
        .into()),
    }
}

fn read_file(path: &str) -> Result<String, Unavailable> {
    let unreadable = |error: std::io::Error| Unavailable {
        message: format!("cannot read the file {path}"),
        cause: Some(error.to_string()),
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.len() > MAX_FILE_BYTES {
        return Err(format!("the file {path} is larger than {MAX_FILE_BYTES} bytes").into());
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
