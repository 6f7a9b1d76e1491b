//! Tenants: their issuers, API keys and external systems.

use std::collections::{BTreeSet, HashSet};

use super::{Faults, Node, copilot, members, model_access, unique, url};
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
    model_access::check(root, tenant, faults);
    systems(tenant, faults);
    copilot::check(root, tenant, known_tools, faults);
}

/// Several keys of one issuer are distinguished by `kid`; at most one may omit it.
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

/// A pointer with an invalid escape matches nothing, which would give all users the same role.
fn role_claims(issuer: &Node<'_>, faults: &mut Faults) {
    for name in issuer.get("role_claims").items() {
        let Some(text) = name.text() else { continue };
        let mut escapes = text.split('~').skip(1);
        if text.starts_with('/') && !escapes.all(|rest| rest.starts_with(['0', '1'])) {
            faults.add(
                name.path(),
                "not a valid JSON Pointer: write ~0 for ~, and ~1 for / within a name",
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
            format!("not used with this algorithm: give {needed} instead"),
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

/// Checks an issuer with a JWKS address. Plain HTTP is allowed only to this machine: whoever can change the answer in
/// transit can sign tokens.
fn published(issuer: &Node<'_>, alg: Alg, faults: &mut Faults) {
    let jwks = issuer.get("jwks_url");
    if alg == Alg::Hs256 {
        faults.add(jwks.path(), "the secret of HS256 is not published: give secret instead");
    }
    for other in ["pem", "secret", "kid"] {
        if issuer.get(other).exists() {
            faults.add(issuer.get(other).path(), "cannot be combined with jwks_url");
        }
    }
    url(&jwks, &["http", "https"], faults);
    let address = jwks.text().and_then(|text| reqwest::Url::parse(text).ok());
    if let Some(address) = address.filter(|address| address.scheme() == "http") {
        let host = address.host_str().unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        if host != "localhost" && !ip.is_ok_and(|ip| ip.is_loopback()) {
            faults.add(jwks.path(), "must begin with https://, unless the host is this machine");
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
            (_, _, true) => faults.add(oauth.path(), "give either oauth_token, or email and token, not both"),
            (false, true, false) => faults.add(email.path(), "is required with token"),
            (true, false, false) => faults.add(token.path(), "is required with email"),
            (false, false, false) => faults.add(zendesk.path(), "give oauth_token, or email and token"),
        }
    }
    address(&tenant.get("slack").get("base_url"), faults);
}

/// Checks the base URL of an external system.
fn address(node: &Node<'_>, faults: &mut Faults) {
    url(node, &["http", "https"], faults);
    let address = node.text().and_then(|text| reqwest::Url::parse(text).ok());
    if address.is_some_and(|url| url.query().is_some() || url.fragment().is_some()) {
        faults.add(node.path(), "must not have a query or a fragment");
    }
}

/// Checks a secret that is sent in a header. Found here, it is a fault of this tenant only; found when the client is
/// built, it would affect all tenants.
fn fits_a_header(secret: &Node<'_>, faults: &mut Faults) {
    if secret
        .text()
        .is_some_and(|text| text.bytes().any(|byte| !(b' '..=b'~').contains(&byte)))
    {
        faults.add(
            secret.path(),
            "contains characters that are not allowed in an HTTP header: use printable ASCII only",
        );
    }
}
