//! Secrets by reference: `{ env = "NAME" }`, `{ file = "path" }` or `{ value = "…" }`.

use serde_json::Value;

use super::env::Env;
use super::faults::Faults;

/// Longest secret file, so that a wrong path does not fill the memory.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Puts the secrets themselves in the place of all references in `value`, and notes what cannot be had.
///
/// A table with the single member `env`, `file` or `value` is a reference wherever it stands; the schema says where one
/// may stand.
pub(super) fn resolve(value: &mut Value, path: &str, env: &Env, faults: &mut Faults) {
    if let Some((kind, argument)) = reference(value) {
        match fetch(kind, argument, env) {
            Ok(secret) => *value = Value::String(secret),
            Err(message) => {
                faults.add(path, message);
                // Checks further on pass over what is missing, so that one cause is one fault.
                *value = Value::Null;
            }
        }
        return;
    }
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                let inner = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                resolve(member, &inner, env, faults);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                resolve(item, &format!("{path}[{index}]"), env, faults);
            }
        }
        _ => {}
    }
}

/// Lists the paths below `value` of references to what lies outside of it: to the environment or to files of this machine.
pub(crate) fn foreign_references(value: &Value) -> Vec<String> {
    fn walk(value: &Value, path: String, found: &mut Vec<String>) {
        match value {
            _ if reference(value).is_some_and(|(kind, _)| kind != "value") => found.push(path),
            Value::Object(members) => {
                for (name, member) in members {
                    walk(member, format!("{path}/{name}"), found);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    walk(item, format!("{path}/{index}"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(value, String::new(), &mut found);
    found
}

fn reference(value: &Value) -> Option<(&str, &str)> {
    let members = value.as_object().filter(|members| members.len() == 1)?;
    let (kind, argument) = members.iter().next()?;
    let known = matches!(kind.as_str(), "env" | "file" | "value");
    known.then_some((kind.as_str(), argument.as_str()?))
}

fn fetch(kind: &str, argument: &str, env: &Env) -> Result<String, String> {
    let secret = match kind {
        "env" => env
            .get(argument)
            .ok_or_else(|| format!("the environment variable {argument} is not set"))?
            .to_owned(),
        "file" => read_file(argument)?,
        _ => argument.to_owned(),
    };
    if secret.is_empty() {
        Err("the secret is empty".to_owned())
    } else {
        Ok(secret)
    }
}

fn read_file(path: &str) -> Result<String, String> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("cannot read the file {path}: {error}"))?;
    if metadata.len() > MAX_FILE_BYTES {
        return Err(format!("the file {path} is larger than {MAX_FILE_BYTES} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read the file {path}: {error}"))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
