//! What only one tenant may have: its issuers and its API keys.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde_json::Value;

use super::{Node, members};
use crate::config::faults::Fault;
use crate::config::issuer::canonical;

/// Something that belongs to one tenant alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    kind: Kind,
    /// In the form in which it is compared.
    key: String,
    /// As it was written.
    text: String,
    /// Where, within the tenant's table.
    path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// An issuer speaks for one tenant alone: what it signs could otherwise be read as another's.
    Issuer,
    /// The hash of an API key.
    KeyHash,
}

/// Lists what the table of a tenant claims. Its secrets need not be resolved.
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

/// Lists the claims that an earlier tenant has already, each with the number of the tenant that comes too late. `place` says where
/// the claim of a tenant stands, for people.
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
