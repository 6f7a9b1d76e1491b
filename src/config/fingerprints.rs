//! Finds what changed between two configurations, secrets included, for the log line of a reload.

use std::collections::BTreeMap;

use copilotd_actors::domain::hash::fingerprint;
use serde_json::Value;

use super::faults::Faults;
use super::load::Source;
use super::secret;

/// Fingerprints of the parts of a configuration, including its secrets as they were when it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fingerprints {
    tenants: BTreeMap<String, [u8; 32]>,
    /// Keys and headers, by provider.
    provider_keys: BTreeMap<String, [u8; 32]>,
    /// Everything else, by path.
    rest: BTreeMap<String, [u8; 32]>,
}

/// The differences between two configurations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Ids of added tenants.
    pub added: Vec<String>,
    /// Ids of removed tenants.
    pub removed: Vec<String>,
    /// Ids of tenants whose settings or secrets changed.
    pub changed: Vec<String>,
    /// Names of providers whose keys or headers changed.
    pub provider_keys: Vec<String>,
    /// Paths of changes that need a restart.
    pub needs_restart: Vec<String>,
}

/// Members of a provider that a reload applies.
const KEYS: [&str; 3] = ["api_key", "api_keys", "headers"];
/// Most names of one kind in the log line.
const MAX_NAMED: usize = 10;

impl Source {
    /// Resolves the secrets and hashes all parts. Secrets that cannot be resolved are skipped; the checks report them.
    pub fn fingerprints(&self) -> Fingerprints {
        let mut fingerprints = Fingerprints::default();
        let read = |value: &Value| {
            let mut value = value.clone();
            secret::resolve_of_file(&mut value, "", self.env(), &mut Faults::default());
            value
        };
        for (index, table) in self.tenants().iter().enumerate() {
            let id = table.id().map_or_else(|| format!("tenants[{index}]"), str::to_owned);
            fingerprints.tenants.insert(id, hash(&read(table.value())));
        }
        let globals = read(self.written_globals());
        for (name, value) in globals.as_object().into_iter().flatten() {
            match (name.as_str(), value) {
                ("tenants", _) => {}
                ("providers", Value::Array(providers)) => {
                    for (index, provider) in providers.iter().enumerate() {
                        let name = provider["name"]
                            .as_str()
                            .map_or_else(|| index.to_string(), str::to_owned);
                        let (mut rest, mut keys) = (provider.clone(), Vec::new());
                        for key in KEYS {
                            keys.push(
                                rest.as_object_mut()
                                    .and_then(|members| members.remove(key))
                                    .unwrap_or_default(),
                            );
                        }
                        fingerprints.rest.insert(format!("providers ({name})"), hash(&rest));
                        fingerprints.provider_keys.insert(name, hash(&Value::Array(keys)));
                    }
                }
                (_, Value::Object(members)) => {
                    for (member, value) in members {
                        fingerprints.rest.insert(format!("{name}.{member}"), hash(value));
                    }
                }
                _ => _ = fingerprints.rest.insert(name.clone(), hash(value)),
            }
        }
        fingerprints
    }
}

fn hash(value: &Value) -> [u8; 32] {
    fingerprint(&[&value.to_string()])
}

impl Fingerprints {
    /// Returns the fingerprints after the tenants and keys of `new` were applied, and nothing else.
    pub fn with_applied(&self, new: Self) -> Self {
        Self {
            rest: self.rest.clone(),
            ..new
        }
    }

    /// Compares with `new`.
    pub fn changes(&self, new: &Self) -> Changes {
        let differing = |old: &BTreeMap<String, [u8; 32]>, new: &BTreeMap<String, [u8; 32]>| {
            let gone = old.keys().filter(|name| !new.contains_key(*name));
            let others = new
                .iter()
                .filter(|(name, hash)| old.get(*name) != Some(hash))
                .map(|(name, _)| name);
            let mut all: Vec<String> = others.chain(gone).cloned().collect();
            all.sort();
            all
        };
        let (before, after) = (&self.tenants, &new.tenants);
        let is_in = |tenants: &BTreeMap<String, [u8; 32]>, id: &String| tenants.contains_key(id);
        // The keys of an added or removed provider change with it, at a restart.
        let mut provider_keys = differing(&self.provider_keys, &new.provider_keys);
        provider_keys.retain(|name| self.provider_keys.contains_key(name) && new.provider_keys.contains_key(name));
        Changes {
            added: after.keys().filter(|id| !is_in(before, id)).cloned().collect(),
            removed: before.keys().filter(|id| !is_in(after, id)).cloned().collect(),
            changed: differing(before, after)
                .into_iter()
                .filter(|id| is_in(before, id) && is_in(after, id))
                .collect(),
            provider_keys,
            needs_restart: differing(&self.rest, &new.rest),
        }
    }
}

impl Changes {
    /// Describes what was applied, and what was not.
    pub fn summary(&self) -> String {
        let mut parts = Vec::new();
        for (what, names) in [
            ("tenants changed", &self.changed),
            ("tenants added", &self.added),
            ("tenants removed", &self.removed),
            ("provider keys changed", &self.provider_keys),
        ] {
            if !names.is_empty() {
                parts.push(format!("{what}: {}", named(names)));
            }
        }
        if parts.is_empty() {
            parts.push("nothing to apply".to_owned());
        }
        if !self.needs_restart.is_empty() {
            parts.push(format!("NOT applied until a restart: {}", named(&self.needs_restart)));
        }
        parts.join("; ")
    }
}

fn named(names: &[String]) -> String {
    let first = names[..names.len().min(MAX_NAMED)].join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Env, SystemKinds};

    fn summary(old: &str, new: &str, env: [&str; 2]) -> String {
        let fingerprints = |text: &str, key: &str| {
            let env = Env::from_iter([("KEY", key)]);
            Source::parse(text, &env, &SystemKinds::default())
                .unwrap()
                .fingerprints()
        };
        fingerprints(old, env[0]).changes(&fingerprints(new, env[1])).summary()
    }

    #[test]
    fn what_changed_is_named_and_what_needs_a_restart_too() {
        let text = "[server]\ndrain_s = 5\n[[providers]]\nname = \"main\"\nbase_url = \"http://x/v1\"\napi_key = { env = \"KEY\" }\n\
                    [[tenants]]\nid = \"acme\"\n[[tenants]]\nid = \"globex\"\n[tenants.slack]\nbot_token = { env = \"KEY\" }\n";
        let same = ["a", "a"];
        for (change, env, expected) in [
            (("", ""), same, "nothing to apply"),
            (
                ("", ""),
                ["a", "b"],
                "tenants changed: globex; provider keys changed: main",
            ),
            (
                ("id = \"acme\"", "id = \"acme\"\nlog_content = true"),
                same,
                "tenants changed: acme",
            ),
            (
                ("id = \"acme\"", "id = \"initech\""),
                same,
                "tenants added: initech; tenants removed: acme",
            ),
            (
                ("drain_s = 5", "drain_s = 6"),
                same,
                "nothing to apply; NOT applied until a restart: server.drain_s",
            ),
            (
                ("http://x/v1", "http://y/v1"),
                ["a", "b"],
                "tenants changed: globex; provider keys changed: main; NOT applied until a restart: providers (main)",
            ),
            (
                ("[server]", "[[routes]]\nname = \"r\"\n[server]"),
                same,
                "nothing to apply; NOT applied until a restart: routes",
            ),
        ] {
            let new = if change.0.is_empty() {
                text.to_owned()
            } else {
                text.replace(change.0, change.1)
            };
            assert_eq!(summary(text, &new, env), expected, "{change:?}");
        }
    }
}
