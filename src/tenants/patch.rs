//! Changes of settings: merge patches (RFC 7396), and secrets that are shown only as fingerprints.
//!
//! A secret is shown as `{"kept": "<fingerprint>"}`. Sent back like that, or untouched by a patch, it stays the same,
//! as long as the place it is bound to does: its address, provider or issuer.
//!
//! Invariant: only [`resolve_kept`] carries over secrets of the old settings, and it works on the result of all other steps.
//! Patched settings contain no secrets but those in the patch, so no order of steps can move one to another place.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::cipher::Cipher;
use super::error::SettingsFault;
use crate::config::{FileTable, NOT_FROM_FILE, SecretPlace, is_secret, reference, secrets, visit_secrets_mut};

/// The message for a secret that would be used at another place than before.
const OTHER_PLACE: &str = "the address, provider or issuer that this secret belongs to has changed: \
    give the secret again as { \"value\": … }";

/// Returns `old` with a merge patch applied. `file` is the table of the same tenant in the configuration file.
pub fn patched(
    old: &Value,
    patch: &Value,
    file: Option<&FileTable>,
    seal: &Cipher,
) -> Result<Value, Vec<SettingsFault>> {
    let mut settings = old.clone();
    redact(&mut settings, seal);
    merge(&mut settings, patch);
    resolve_kept(settings, old, file, seal)
}

/// Returns the settings that replace `old`, with the kept secrets filled in.
pub fn replaced(
    old: &Value,
    given: Value,
    file: Option<&FileTable>,
    seal: &Cipher,
) -> Result<Value, Vec<SettingsFault>> {
    resolve_kept(given, old, file, seal)
}

/// Applies a merge patch. A secret counts as a single value: it is replaced, never merged. The crate `json-patch` cannot
/// do that: it would merge the members of a new reference into those of the old one.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() || is_secret(target) {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            members.shift_remove(name);
        } else {
            merge(members.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Replaces secrets by their fingerprints.
pub fn redact(settings: &mut Value, seal: &Cipher) {
    visit_secrets_mut(settings, &mut |_, _, leaf| {
        if leaf.get("value").is_some() {
            let secret = leaf["value"].as_str().unwrap_or_default();
            *leaf = json!({ "kept": seal.fingerprint(secret) });
        }
    });
}

/// Replaces fingerprints by the secrets of `old`, each only at its old place. References to the environment and to
/// files are allowed only where the file has the same one at the same place.
fn resolve_kept(
    mut settings: Value,
    old: &Value,
    file: Option<&FileTable>,
    seal: &Cipher,
) -> Result<Value, Vec<SettingsFault>> {
    let mut known: HashMap<String, Vec<(SecretPlace, &str)>> = HashMap::new();
    for (_, place, leaf) in secrets(old) {
        if let Some(("value", secret)) = reference(leaf) {
            known.entry(seal.fingerprint(secret)).or_default().push((place, secret));
        }
    }
    let mut of_file: HashMap<(&str, &str), Vec<SecretPlace>> = HashMap::new();
    for (place, leaf) in file.into_iter().flat_map(FileTable::secrets) {
        if let Some(written) = reference(leaf) {
            of_file.entry(written).or_default().push(place);
        }
    }
    let mut faults = Vec::new();
    visit_secrets_mut(&mut settings, &mut |pointer, place, leaf| {
        let mut fault = |message: &str| {
            faults.push(SettingsFault {
                pointer: pointer.to_owned(),
                message: message.to_owned(),
            });
        };
        match reference(leaf) {
            Some(("kept", wanted)) => match known.get(wanted) {
                None => fault("no stored secret has this fingerprint: give the secret as { \"value\": … }"),
                Some(same) => match same.iter().find(|(known, _)| known == place) {
                    Some((_, secret)) => *leaf = json!({ "value": secret }),
                    None => fault(OTHER_PLACE),
                },
            },
            Some(written @ ("env" | "file", _)) => match of_file.get(&written) {
                None => fault(NOT_FROM_FILE),
                Some(places) if !places.contains(place) => fault(OTHER_PLACE),
                Some(_) => {}
            },
            // The schema checks the rest.
            _ => {}
        }
    });
    if faults.is_empty() { Ok(settings) } else { Err(faults) }
}

#[cfg(test)]
mod tests;
