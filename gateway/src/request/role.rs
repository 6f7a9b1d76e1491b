//! The role of a credential within its tenant: which credentials may share cached answers.

use std::fmt;
use std::sync::Arc;

use copilotd_actors::domain::hash::PartHasher;
use serde_json::Value;

/// The claims that make up a role unless an issuer sets `role_claims`: `scope`, and those of RFC 9068, section 2.2.3.1.
pub const DEFAULT_ROLE_CLAIMS: [&str; 4] = ["scope", "roles", "groups", "entitlements"];

/// The role of a verified credential. Two roles are equal when their credentials may do the same: tokens of one issuer
/// whose role claims are equal, with lists in any order. Every API key is a role of its own, because nothing tells what
/// the users behind two keys have in common.
///
/// Invariant: tokens that differ in one of the role claims have different roles. A missing claim differs from an empty
/// one: we do not guess what an identity provider means by omitting it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Role(Arc<str>);

impl Role {
    /// Derives the role of a token from its claims. A name selects the claim of that name, and also the nested claim it
    /// leads to as a JSON Pointer (`/realm_access/roles`) or a dotted path (`realm_access.roles`).
    pub fn of_token<S: AsRef<str>>(iss: &str, names: impl IntoIterator<Item = S>, claims: &Value) -> Self {
        let mut hasher = PartHasher::new().part(iss);
        for name in names {
            let name = name.as_ref();
            let found = [claims.get(name), nested(claims, name)];
            let found = found.map(|claim| claim.map_or_else(|| "missing".to_owned(), |claim| written(name, claim)));
            hasher = hasher.part(name).parts(found);
        }
        Self(format!("token:{}", hex::encode(hasher.finish())).into())
    }

    /// Returns the role of an API key, which no other credential has.
    pub fn of_key(source: impl Into<Arc<str>>) -> Self {
        Self(source.into())
    }

    /// Returns the role as a text; equal roles give equal texts.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the single roles that a token names in its role claims: the strings of lists, and the words of a `scope`, in
/// the order of the claims. Documents are opened to these; a claim of any other form names none.
pub fn names_in_token<S: AsRef<str>>(names: impl IntoIterator<Item = S>, claims: &Value) -> Vec<String> {
    let mut roles = Vec::new();
    for name in names {
        let name = name.as_ref();
        for claim in [claims.get(name), nested(claims, name)].into_iter().flatten() {
            match claim {
                Value::Array(items) => roles.extend(items.iter().filter_map(Value::as_str).map(str::to_owned)),
                Value::String(words) if matches!(name, "scope" | "scp") => {
                    roles.extend(words.split(' ').filter(|word| !word.is_empty()).map(str::to_owned));
                }
                _ => {}
            }
        }
    }
    roles
}

/// Finds the claim at a JSON Pointer or a dotted path.
fn nested<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    if name.starts_with('/') {
        return claims.pointer(name);
    }
    if !name.contains('.') {
        return None;
    }
    name.split('.').try_fold(claims, |claim, member| claim.get(member))
}

/// Encodes a claim so that equal roles give equal texts: lists sorted, `scope` as a sorted set of words, anything else
/// unchanged.
fn written(name: &str, claim: &Value) -> String {
    match claim {
        Value::Array(items) => format!("list {}", set(items.iter().map(Value::to_string))),
        // RFC 8693, section 4.2: a space-separated list in any order. Some providers call it `scp`.
        Value::String(words) if matches!(name, "scope" | "scp") => {
            let words = words.split(' ').filter(|word| !word.is_empty());
            format!("words {}", set(words.map(|word| Value::from(word).to_string())))
        }
        other => format!("value {other}"),
    }
}

/// Joins texts sorted and without duplicates. None contains a line break, because each is encoded as JSON.
fn set(texts: impl Iterator<Item = String>) -> String {
    let mut texts: Vec<String> = texts.collect();
    texts.sort_unstable();
    texts.dedup();
    texts.join("\n")
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn role(claims: Value) -> Role {
        Role::of_token("iss", DEFAULT_ROLE_CLAIMS, &claims)
    }

    #[track_caller]
    fn all_differ(roles: &[Role]) {
        for (n, one) in roles.iter().enumerate() {
            assert!(!roles[..n].contains(one), "{n}");
        }
    }

    #[test]
    fn a_role_is_what_a_credential_may_do() {
        let with = |scope: &str, roles: Value| role(json!({ "scope": scope, "roles": roles }));
        let hr = json!(["hr", "lead"]);
        let one = with("chat gateway", hr.clone());
        assert_eq!(one, with("gateway  chat chat", json!(["lead", "hr", "hr"])));
        all_differ(&[
            one,
            with("chat gateway", json!(["hr"])),
            with("chat gateway hr", json!(["lead"])),
            with("chat\ngateway", hr.clone()),
            with("chat gateway", json!("hr")),
            with("chat gateway", json!(["hr\n\"lead"])),
            with("chat gateway", json!({ "hr": true })),
            with("chat gateway", json!([])),
            with("chat gateway", json!(null)),
            with("chat gateway", json!("")),
            with("chat gateway", json!([""])),
            with("gateway", hr.clone()),
            with("", hr.clone()),
            role(json!({ "roles": hr })),
            role(json!({ "scope": "chat gateway" })),
            role(json!({ "scope": "chat gateway", "groups": hr })),
            role(json!({ "scope": "chat gateway", "entitlements": hr })),
            role(json!({ "scope": ["chat", "gateway"], "roles": hr })),
            Role::of_token(
                "other",
                DEFAULT_ROLE_CLAIMS,
                &json!({ "scope": "chat gateway", "roles": hr }),
            ),
            Role::of_key("key:acme/backend"),
            Role::of_key("key:acme/other"),
        ]);
    }

    #[test]
    fn a_token_names_roles_in_lists_and_scopes() {
        let cases = [
            (
                json!({ "scope": "chat  hr", "roles": ["lead", 7, null, "hr"] }),
                vec!["chat", "hr", "lead", "hr"],
            ),
            (json!({ "roles": "hr lead" }), vec![]),
            (json!({ "scope": ["chat", "hr"] }), vec!["chat", "hr"]),
            (json!({ "roles": { "hr": true }, "groups": null }), vec![]),
            (json!({}), vec![]),
        ];
        for (claims, roles) in cases {
            assert_eq!(names_in_token(DEFAULT_ROLE_CLAIMS, &claims), roles, "{claims}");
        }
        let nested = json!({ "realm_access": { "roles": ["hr"] } });
        assert_eq!(names_in_token(["realm_access.roles"], &nested), ["hr"]);
        assert_eq!(names_in_token(["/realm_access/roles"], &nested), ["hr"]);
    }

    #[test]
    fn claims_are_found_by_name_by_pointer_and_by_dots() {
        let claims = |roles: Value| {
            json!({
                "sub": "ada",
                "realm_access": { "roles": roles },
                "resource_access": { "my.client": { "roles": roles } },
                "https://acme.example/roles": roles,
                "a/b": roles,
                "a.b": roles,
            })
        };
        for name in [
            "realm_access.roles",
            "/realm_access/roles",
            "/resource_access/my.client/roles",
            "https://acme.example/roles",
            "a/b",
            "/a~1b",
            "a.b",
            "realm_access",
            "/realm_access",
        ] {
            let of = |claims: &Value| Role::of_token("iss", [name], claims);
            let (one, other) = (claims(json!(["hr"])), claims(json!(["sales"])));
            assert_ne!(of(&one), of(&other), "{name}");
            assert_ne!(of(&one), of(&json!({ "sub": "ada" })), "{name}");
            assert_ne!(of(&claims(json!([]))), of(&json!({ "sub": "ada" })), "{name}");
            let mut bob = one.clone();
            bob["sub"] = json!("bob");
            assert_eq!(of(&one), of(&bob), "{name}");
        }
        // A name that can be read in two ways selects both claims.
        let both = |plain: &str, deep: &str| {
            let claims = json!({ "a.b": plain, "a": { "b": deep } });
            Role::of_token("iss", ["a.b"], &claims)
        };
        all_differ(&[both("x", "x"), both("x", "y"), both("y", "x"), both("y", "y")]);
        // Different `role_claims` give different roles, whatever the token contains.
        let claims = json!({ "a": "x", "b": "x" });
        let of = |names: &[&str]| Role::of_token("iss", names, &claims);
        all_differ(&[of(&["a"]), of(&["b"]), of(&["a", "b"]), of(&["c"])]);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-c \n\"]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[ab.]{0,2}", inner, 0..3).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    /// Whether two claims may share answers.
    fn is_alike(name: &str, one: Option<&Value>, other: Option<&Value>) -> bool {
        let sorted = |items: &[Value]| set(items.iter().map(Value::to_string));
        let words = |text: &str| set(text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned));
        match (one, other) {
            (Some(Value::Array(one)), Some(Value::Array(other))) => sorted(one) == sorted(other),
            (Some(Value::String(one)), Some(Value::String(other))) if name == "scope" => words(one) == words(other),
            (one, other) => one == other,
        }
    }

    proptest! {
        #[test]
        fn tokens_that_differ_in_a_role_claim_never_share_a_role(
            one in proptest::collection::btree_map("scope|roles|groups|x", value(), 0..4),
            other in proptest::collection::btree_map("scope|roles|groups|x", value(), 0..4),
        ) {
            let (one, other): (Value, Value) = (one.into_iter().collect(), other.into_iter().collect());
            let alike = DEFAULT_ROLE_CLAIMS.iter().all(|name| is_alike(name, one.get(name), other.get(name)));
            prop_assert_eq!(role(one.clone()) == role(other.clone()), alike, "{} {}", one, other);
        }
    }
}
