//! Tenants: who signs for them, their API keys and the systems they connect to.

use std::collections::{BTreeSet, HashSet};

use super::{Faults, Node, copilot, members, rights, unique, url};
use crate::config::Alg;

pub(super) fn check(root: &Node<'_>, tenant: &Node<'_>, known_tools: &BTreeSet<String>, faults: &mut Faults) {
    for issuer in tenant.get("issuers").items() {
        key(&issuer, faults);
        role_claims(&issuer, faults);
    }
    kids_are_distinct(&tenant.get("issuers"), faults);
    unique(members(&tenant.get("api_keys"), "name"), faults);
    unique(members(&tenant.get("api_keys"), "hash"), faults);
    for end in members(&tenant.get("api_keys"), "expires_at") {
        if end.text().is_some_and(|text| text.parse::<jiff::Timestamp>().is_err()) {
            faults.add(end.path(), "expected a time such as 2027-01-31T00:00:00Z");
        }
    }
    rights::check(root, tenant, faults);
    systems(tenant, faults);
    copilot::check(root, tenant, known_tools, faults);
}

/// Several keys of one issuer are told apart by `kid`; at most one of them may go without.
fn kids_are_distinct(issuers: &Node<'_>, faults: &mut Faults) {
    let mut seen = HashSet::new();
    for issuer in issuers.items() {
        let kid = issuer.get("kid");
        let Some(iss) = issuer.get("iss").text() else { continue };
        if !seen.insert((iss, kid.text())) {
            let message = "several keys of one issuer need different kid values";
            faults.add(if kid.exists() { kid.path() } else { issuer.path() }, message);
        }
    }
}

/// A pointer with a wrong escape leads nowhere, and would make one role of everybody.
fn role_claims(issuer: &Node<'_>, faults: &mut Faults) {
    for name in issuer.get("role_claims").items() {
        let Some(text) = name.text() else { continue };
        let mut escapes = text.split('~').skip(1);
        if text.starts_with('/') && !escapes.all(|rest| rest.starts_with(['0', '1'])) {
            faults.add(
                name.path(),
                "not a JSON Pointer: ~ is written ~0, and / within a name ~1",
            );
        }
    }
}

fn key(issuer: &Node<'_>, faults: &mut Faults) {
    let alg = match issuer.get("alg").text() {
        Some("EdDSA") => Alg::EdDsa,
        Some("ES256") => Alg::Es256,
        Some("RS256") => Alg::Rs256,
        Some("HS256") => Alg::Hs256,
        _ => return,
    };
    let (needed, other) = if alg == Alg::Hs256 {
        ("secret", "pem")
    } else {
        ("pem", "secret")
    };
    let jwks = issuer.get("jwks_url");
    if jwks.exists() {
        published(issuer, alg, faults);
        return;
    }
    if issuer.get(other).exists() {
        faults.add(
            issuer.get(other).path(),
            format!("this algorithm takes {needed} instead"),
        );
    }
    let material = issuer.get(needed);
    if !material.exists() {
        faults.add(material.path(), "is required for this algorithm");
    }
    if let Some(Err(message)) = material.text().map(|text| alg.key(text)) {
        faults.add(material.path(), message);
    }
}

/// Keys at an address. Plain HTTP is for this machine: whoever can change the answer on its way can sign tokens.
fn published(issuer: &Node<'_>, alg: Alg, faults: &mut Faults) {
    let jwks = issuer.get("jwks_url");
    if alg == Alg::Hs256 {
        faults.add(
            jwks.path(),
            "a secret is not published: this algorithm takes secret instead",
        );
    }
    for other in ["pem", "secret", "kid"] {
        if issuer.get(other).exists() {
            faults.add(issuer.get(other).path(), "stands in the way of jwks_url");
        }
    }
    url(&jwks, &["http", "https"], faults);
    let address = jwks.text().and_then(|text| reqwest::Url::parse(text).ok());
    if let Some(address) = address.filter(|address| address.scheme() == "http") {
        let host = address.host_str().unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        if host != "localhost" && !ip.is_ok_and(|ip| ip.is_loopback()) {
            faults.add(jwks.path(), "has to begin with https://, unless it is on this machine");
        }
    }
}

fn systems(tenant: &Node<'_>, faults: &mut Faults) {
    let zendesk = tenant.get("zendesk");
    address(&zendesk.get("base_url"), faults);
    for secret in ["token", "oauth_token"] {
        fits_a_header(&zendesk.get(secret), faults);
    }
    fits_a_header(&tenant.get("slack").get("bot_token"), faults);
    for keys in tenant.get("provider_keys").items() {
        fits_a_header(&keys.get("api_key"), faults);
        for key in keys.get("api_keys").items() {
            fits_a_header(&key, faults);
        }
    }
    let (email, token, oauth) = (zendesk.get("email"), zendesk.get("token"), zendesk.get("oauth_token"));
    if zendesk.exists() {
        match (email.exists(), token.exists(), oauth.exists()) {
            (true, true, false) | (false, false, true) => {}
            (_, _, true) => faults.add(oauth.path(), "give either oauth_token or email and token"),
            (false, true, false) => faults.add(email.path(), "is required beside token"),
            (true, false, false) => faults.add(token.path(), "is required beside email"),
            (false, false, false) => faults.add(zendesk.path(), "give oauth_token, or email and token"),
        }
    }
    address(&tenant.get("slack").get("base_url"), faults);
}

/// The address of a system, below which its resources stand.
fn address(node: &Node<'_>, faults: &mut Faults) {
    url(node, &["http", "https"], faults);
    let address = node.text().and_then(|text| reqwest::Url::parse(text).ok());
    if address.is_some_and(|url| url.query().is_some() || url.fragment().is_some()) {
        faults.add(node.path(), "may not have a query or a fragment");
    }
}

/// What is sent in a header. Found here, it is this tenant's fault; found when its client is built, it would be everybody's.
fn fits_a_header(secret: &Node<'_>, faults: &mut Faults) {
    if secret
        .text()
        .is_some_and(|text| text.bytes().any(|byte| !(b' '..=b'~').contains(&byte)))
    {
        faults.add(
            secret.path(),
            "holds characters that a header cannot carry; only printable ASCII is sent",
        );
    }
}
