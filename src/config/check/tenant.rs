//! Tenants: their issuers, API keys and external systems.

use std::collections::HashSet;

use jsonptr::Pointer;

use super::systems::{self, fits_a_header};
use super::{Faults, Node, copilot, members, model_access, origins, sources, unique, url};
use crate::config::{Alg, SystemKinds};

pub(super) fn check(root: &Node<'_>, tenant: &Node<'_>, kinds: &SystemKinds, faults: &mut Faults) {
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
    origins(tenant, faults);
    model_access::check(root, tenant, faults);
    provider_keys(tenant, faults);
    systems::check(tenant, kinds, faults);
    sources::check(tenant, faults);
    copilot::check(root, tenant, kinds, faults);
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
        if text.starts_with('/') && Pointer::parse(text).is_err() {
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
        faults.add(jwks.path(), "HS256 has no public key to fetch: give secret instead");
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

fn provider_keys(tenant: &Node<'_>, faults: &mut Faults) {
    for keys in tenant.get("provider_keys").items() {
        fits_a_header(&keys.get("api_key"), faults);
        for key in keys.get("api_keys").items() {
            fits_a_header(&key, faults);
        }
    }
}
