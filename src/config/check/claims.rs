//! What must be unique among tenants: issuers and API keys.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde_json::Value;

use super::{Node, members};
use crate::config::faults::Fault;
use crate::config::issuer::canonical;

/// An issuer or API key that a tenant claims for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    kind: Kind,
    /// In canonical form, for comparison.
    key: String,
    /// As written in the configuration.
    text: String,
    /// Its path within the tenant's table.
    path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// An issuer belongs to one tenant: otherwise its tokens could be taken for another tenant's.
    Issuer,
    /// The hash of an API key.
    KeyHash,
}

/// Lists the claims of a tenant's table. Its secrets need not be resolved.
pub(crate) fn claims(table: &Value) -> Vec<Claim> {
    let table = Node::root(table);
    let (issuers, keys) = (table.get("issuers"), table.get("api_keys"));
    let issuers = members(&issuers, "iss").map(|iss| (Kind::Issuer, iss));
    let keys = members(&keys, "hash").map(|hash| (Kind::KeyHash, hash));
    let claim = |(kind, node): (Kind, Node<'_>)| {
        let text = node.text()?;
        Some(Claim {
            kind,
            key: match kind {
                Kind::Issuer => canonical(text),
                Kind::KeyHash => text.to_owned(),
            },
            text: text.to_owned(),
            path: node.path().to_owned(),
        })
    };
    issuers.chain(keys).filter_map(claim).collect()
}

/// Lists claims that an earlier tenant already has, each with the index of the later tenant. `place` describes where a
/// tenant's claim is, for readers.
pub(crate) fn conflicts<'a>(
    tenants: impl Iterator<Item = &'a [Claim]>,
    place: impl Fn(usize, &str) -> String,
) -> Vec<(usize, Fault)> {
    let mut owners: HashMap<(Kind, &str), (usize, &Claim)> = HashMap::new();
    let mut found = Vec::new();
    for (index, claims) in tenants.enumerate() {
        for claim in claims {
            match owners.entry((claim.kind, &claim.key)) {
                Entry::Vacant(vacant) => _ = vacant.insert((index, claim)),
                Entry::Occupied(owner) => {
                    let (owner, first) = *owner.get();
                    if owner != index {
                        let fault = Fault {
                            path: claim.path.clone(),
                            message: message(claim, first, &place(owner, &first.path)),
                            cause: None,
                        };
                        found.push((index, fault));
                    }
                }
            }
        }
    }
    found
}

fn message(claim: &Claim, first: &Claim, place: &str) -> String {
    match claim.kind {
        Kind::KeyHash => format!("is the same as {place}"),
        Kind::Issuer if claim.text == first.text => format!("is the same as {place}, which belongs to another tenant"),
        Kind::Issuer => format!("is another spelling of {place}, which belongs to another tenant"),
    }
}
