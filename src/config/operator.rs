//! Only the configuration file can grant the scope `operator`: by marking a tenant, and by the scopes of its
//! credentials.

use serde_json::Value;

use super::file_table::FileTable;

/// Limits the scope `operator` in a table that did not come from the file to what the file grants: the tenant is marked
/// as it is there, and an issuer or key may grant the scope only if the file has the same one and lets it. Returns the
/// JSON Pointers of what was removed.
pub(crate) fn restrict_to_file(table: &mut Value, file: Option<&FileTable>) -> Vec<String> {
    let mut taken = Vec::new();
    let Some(members) = table.as_object_mut() else {
        return taken;
    };
    if members.shift_remove("operator").is_some() {
        taken.push("/operator".to_owned());
    }
    if file.is_some_and(FileTable::is_operator) {
        members.insert("operator".to_owned(), true.into());
    }
    for list in ["issuers", "api_keys"] {
        let credentials = members.get_mut(list).and_then(Value::as_array_mut);
        for (index, credential) in credentials.into_iter().flatten().enumerate() {
            if file.is_some_and(|file| grants_operator(file, list, credential)) {
                continue;
            }
            let scopes = credential.get_mut("scopes").and_then(Value::as_array_mut);
            let Some(scopes) = scopes else { continue };
            let before = scopes.len();
            scopes.retain(|scope| scope != "operator");
            if scopes.len() < before {
                taken.push(format!("/{list}/{index}/scopes"));
            }
        }
    }
    taken
}

/// Whether the file has the same credential with the scope.
fn grants_operator(file: &FileTable, list: &str, credential: &Value) -> bool {
    let known = file.value().get(list).and_then(Value::as_array);
    known.into_iter().flatten().any(|known| {
        let scopes = known.get("scopes").and_then(Value::as_array);
        let operator = scopes.into_iter().flatten().any(|scope| scope == "operator");
        operator && proof(known) == proof(credential)
    })
}

/// Returns the members that verify a credential: everything but its name and what it may do.
fn proof(credential: &Value) -> Vec<(&str, &Value)> {
    let members = credential.as_object().into_iter().flatten();
    let proves = |name: &str| matches!(name, "iss" | "alg" | "kid" | "secret" | "pem" | "jwks_url" | "hash");
    let mut proof: Vec<_> = members
        .map(|(name, value)| (name.as_str(), value))
        .filter(|(name, _)| proves(name))
        .collect();
    proof.sort_by_key(|(name, _)| *name);
    proof
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_the_file_gives_is_left() {
        let issuer = |secret: &str, scopes: &[&str]| json!({ "iss": "i", "alg": "HS256", "secret": { "env": secret }, "scopes": scopes });
        let key = |hash: &str, scopes: &[&str]| json!({ "name": "k", "hash": hash, "scopes": scopes });
        let file = |operator: bool| {
            FileTable::new(json!({
                "id": "ops", "operator": operator,
                "issuers": [issuer("S", &["chat", "operator"])],
                "api_keys": [key("a", &["operator"]), key("b", &["admin"])],
            }))
        };
        let stored = json!({
            "id": "ops", "operator": true,
            "issuers": [issuer("S", &["operator"]), issuer("T", &["admin", "operator"])],
            "api_keys": [key("b", &["admin", "operator"]), key("a", &["operator"])],
        });
        for (known, marked, taken) in [
            (
                None,
                false,
                vec![
                    "/operator",
                    "/issuers/0/scopes",
                    "/issuers/1/scopes",
                    "/api_keys/0/scopes",
                    "/api_keys/1/scopes",
                ],
            ),
            (
                Some(file(true)),
                true,
                vec!["/operator", "/issuers/1/scopes", "/api_keys/0/scopes"],
            ),
            (
                Some(file(false)),
                false,
                vec!["/operator", "/issuers/1/scopes", "/api_keys/0/scopes"],
            ),
        ] {
            let mut table = stored.clone();
            assert_eq!(restrict_to_file(&mut table, known.as_ref()), taken);
            assert_eq!(table.get("operator").is_some(), marked);
            assert_eq!(table["issuers"][1]["scopes"], json!(["admin"]));
        }
    }
}
