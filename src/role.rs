//! What a credential stands for within its tenant.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The role that a verified credential acts in. Two are equal when their credentials may do the same: tokens of one issuer with the
/// same words in `scope` and the same `roles`, `groups` and `entitlements` (RFC 9068, section 2.2.3.1), in any order; of API keys
/// only the same key is the same role, since nobody says what the users behind two keys have in common.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Role(Arc<str>);

impl Role {
    /// Reads the role of a token off its claims. A claim of another form than a list of names counts as it stands.
    pub fn of_token(iss: &str, scope: &str, claims: [&Value; 3]) -> Self {
        let words = scope
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(|word| Value::from(word).to_string());
        let mut all = vec![iss.to_owned(), Self::list(words.collect())];
        all.extend(claims.map(|claim| match claim {
            Value::Null => String::new(),
            Value::Array(names) => Self::list(names.iter().map(Value::to_string).collect()),
            other => format!("={other}"),
        }));
        let mut digest = Sha256::new();
        for part in all {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        Self(format!("token:{}", hex::encode(digest.finalize())).into())
    }

    /// The role of an API key: nobody else's.
    pub fn of_key(source: impl Into<Arc<str>>) -> Self {
        Self(source.into())
    }

    /// Returns it as text, which is the same for the same role.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Writes names in one order. None of them holds a line break: they are written as JSON.
    fn list(mut names: Vec<String>) -> String {
        names.sort_unstable();
        names.dedup();
        names.join("\n")
    }
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_role_is_what_a_credential_may_do() {
        let role = |scope: &str, roles: Value| Role::of_token("iss", scope, [&roles, &Value::Null, &Value::Null]);
        let hr = json!(["hr", "lead"]);
        let one = role("chat gateway", hr.clone());
        assert_eq!(one, role("gateway  chat chat", json!(["lead", "hr", "hr"])));
        let apart = [
            one,
            role("chat gateway", json!(["hr"])),
            role("chat gateway hr", json!(["lead"])),
            role("chat\ngateway", hr.clone()),
            role("chat gateway", json!("hr")),
            role("chat gateway", json!(["hr\n\"lead"])),
            role("chat gateway", json!({ "hr": true })),
            role("chat gateway", json!([])),
            role("gateway", hr.clone()),
            Role::of_token("other", "chat gateway", [&hr, &Value::Null, &Value::Null]),
            Role::of_token("iss", "chat gateway", [&Value::Null, &hr, &Value::Null]),
            Role::of_token("iss", "chat gateway", [&Value::Null, &Value::Null, &hr]),
            Role::of_key("key:acme/backend"),
            Role::of_key("key:acme/other"),
        ];
        for (n, one) in apart.iter().enumerate() {
            assert!(!apart[..n].contains(one), "{n}");
        }
        // An empty list says what a missing claim says.
        assert_eq!(role("chat", json!([])), role("chat", Value::Null));
    }
}
