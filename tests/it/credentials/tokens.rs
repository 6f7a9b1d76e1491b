//! User tokens.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use copilotd::config::Alg;
use copilotd::http::credentials::{Caller, CredentialKind, Refusal, Scopes, Verifier};
use copilotd::revocations::Revocations;
use copilotd_actors::domain::access::revocation::Subject;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::requests::SteppedClock;
use super::{
    GLOBEX_SECRET, OLD_SECRET, SECRET, claims, config, config_with, hmac, later, now, sign, sign_with, verify,
};
use crate::support::revocations::MemoryRevocations;

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(format!("tests/it/credentials/keys/{name}")).unwrap()
}

fn of(iss: &str, alg: Alg) -> (Value, Header, EncodingKey) {
    let key = match alg {
        Alg::EdDsa => EncodingKey::from_ed_pem(&pem("ed25519.pem")).unwrap(),
        Alg::Es256 => EncodingKey::from_ec_pem(&pem("p256.pem")).unwrap(),
        Alg::Rs256 => EncodingKey::from_rsa_pem(&pem("rsa2048.pem")).unwrap(),
        Alg::Hs256 => EncodingKey::from_secret(SECRET.as_bytes()),
    };
    (claims(json!({ "iss": iss })), Header::new(alg.algorithm()), key)
}

const ISSUERS: [(&str, Alg); 4] = [
    ("https://acme.example/ed", Alg::EdDsa),
    ("https://acme.example/es", Alg::Es256),
    ("https://acme.example/rs", Alg::Rs256),
    ("https://acme.example", Alg::Hs256),
];

#[test]
fn every_algorithm_is_verified_by_its_own_key_alone() {
    for (iss, alg) in ISSUERS {
        for (_, other) in ISSUERS {
            let (claims, ..) = of(iss, alg);
            let (_, header, key) = of(iss, other);
            let caller = verify(&sign_with(&header, &claims, &key));
            if alg != other {
                assert_eq!(caller, Err(Refusal::Unknown), "{alg:?} {other:?}");
                continue;
            }
            let caller = caller.unwrap();
            assert_eq!((caller.scope.tenant().as_str(), caller.user.as_str()), ("acme", "ada"));
            assert_eq!((caller.scopes, caller.kind), (Scopes::CHAT, CredentialKind::UserToken));
            assert_eq!(caller.expires_at, Some(later(3_600)));
        }
    }
}

#[test]
fn a_role_is_what_scope_and_roles_say_whoever_has_it() {
    let role = |change| verify(&sign(&claims(change))).unwrap().role.unwrap();
    let hr = role(json!({ "scope": "chat gateway hr", "roles": ["lead", "hr"] }));
    let same = json!({ "sub": "bob", "scope": "hr gateway chat", "roles": ["hr", "lead"], "jti": "another" });
    assert_eq!(hr, role(same));
    // Role claims of any type are accepted, as before roles existed.
    for roles in [
        json!(["hr"]),
        json!("lead hr"),
        json!({ "hr": {} }),
        json!(5),
        json!([]),
        json!(null),
    ] {
        let other = json!({ "scope": "chat gateway hr", "roles": roles });
        assert_ne!(hr, role(other), "{roles}");
    }
    assert_ne!(hr, role(json!({ "scope": "chat gateway", "roles": ["lead", "hr"] })));
}

#[test]
fn an_issuer_s_role_claims_decide_who_is_alike() {
    let names = |names: &str| hmac(None, SECRET).replace("secret =", &format!("role_claims = {names}\nsecret ="));
    let keycloak = names("[\"realm_access.roles\", \"/resource_access/my.client/roles\"]");
    let verifier = Verifier::new(&config_with(&keycloak)).unwrap();
    let token = |change: Value| sign(&claims(change));
    let role = |token: &str| verifier.verify(token, None, now()).unwrap().role.unwrap();
    let lead = json!({ "realm_access": { "roles": ["lead", "hr"] }, "scope": "chat" });
    let same =
        json!({ "realm_access": { "roles": ["hr", "lead"] }, "scope": "chat gateway", "roles": ["x"], "sub": "bob" });
    assert_eq!(role(&token(lead.clone())), role(&token(same)));
    for other in [
        json!({ "realm_access": { "roles": ["hr"] } }),
        json!({ "realm_access": { "roles": [] } }),
        json!({ "realm_access": {} }),
        json!({}),
        json!({ "realm_access": { "roles": ["lead", "hr"] }, "resource_access": { "my.client": { "roles": ["x"] } } }),
    ] {
        assert_ne!(role(&token(lead.clone())), role(&token(other.clone())), "{other}");
    }

    // Changed role claims apply immediately, also to cached tokens.
    let (one, other) = (
        token(json!({ "department": "hr", "scope": "chat" })),
        token(json!({ "department": "sales", "scope": "chat" })),
    );
    let verifier = Verifier::new(&config()).unwrap();
    let role = |token: &str| verifier.verify(token, None, now()).unwrap().role.unwrap();
    assert_eq!(role(&one), role(&other));
    verifier.replace(&config_with(&names("[\"department\"]"))).unwrap();
    assert_ne!(role(&one), role(&other));
}

#[test]
fn a_claim_that_is_given_twice_is_refused() {
    let head = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"HS256"}"#);
    let text = claims(json!({ "roles": ["hr"] })).to_string();
    for (more, expected) in [
        ("", None),
        (r#","extra":1"#, None),
        (r#","sub":"eve""#, Some(Refusal::DuplicateClaim)),
        (r#","roles":["lead"]"#, Some(Refusal::DuplicateClaim)),
        (r#","role\u0073":["lead"]"#, Some(Refusal::DuplicateClaim)),
    ] {
        let payload = URL_SAFE_NO_PAD.encode(format!("{}{more}}}", text.trim_end_matches('}')));
        let signed = format!("{head}.{payload}");
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap();
        assert_eq!(verify(&format!("{signed}.{signature}")).err(), expected, "{more}");
    }
}

#[test]
fn a_public_key_is_no_secret() {
    for (iss, file) in [
        ("https://acme.example/rs", "rsa2048.pub.pem"),
        ("https://acme.example/es", "p256.pub.pem"),
    ] {
        let key = EncodingKey::from_secret(&pem(file));
        let token = sign_with(&Header::new(Algorithm::HS256), &claims(json!({ "iss": iss })), &key);
        assert_eq!(verify(&token), Err(Refusal::Unknown), "{file}");
    }
}

#[test]
fn what_is_signed_wrongly_or_not_at_all_is_not_known() {
    let good = sign(&claims(json!({})));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (head, payload) = signed.split_once('.').unwrap();
    let none = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"none"}"#);
    let critical = Header {
        crit: Some(vec!["b64".into()]),
        ..Header::new(Algorithm::HS256)
    };
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let other_payload = URL_SAFE_NO_PAD.encode(claims(json!({ "sub": "eve" })).to_string());
    for token in [
        format!("{none}.{payload}."),
        format!("{none}.{payload}.{signature}"),
        format!("{none}.{payload}"),
        format!("{head}.{other_payload}.{signature}"),
        format!("{head}.{payload}."),
        format!("{head}.{payload}.{}", &signature[1..]),
        format!("{head}.{payload}.{signature}x"),
        format!("{good}.{good}"),
        sign_with(&critical, &claims(json!({})), &secret),
        sign_with(&Header::new(Algorithm::HS384), &claims(json!({})), &secret),
        sign_with(
            &Header::new(Algorithm::HS256),
            &claims(json!({})),
            &EncodingKey::from_secret(b"another"),
        ),
        sign_with(
            &Header::new(Algorithm::HS256),
            &claims(json!({})),
            &EncodingKey::from_secret(b""),
        ),
        sign(&claims(json!({ "iss": "https://nobody.example" }))),
        sign(&claims(json!({ "iss": null }))),
        "..".to_owned(),
        "a.b.c".to_owned(),
        String::new(),
    ] {
        assert_eq!(verify(&token), Err(Refusal::Unknown), "{token}");
    }
}

#[test]
fn claims_are_held_against_the_clock_the_issuer_and_us() {
    let at = |seconds: i64| later(seconds).as_second();
    for (change, expected) in [
        (json!({ "exp": at(-59) }), None),
        (json!({ "exp": at(-61) }), Some(Refusal::Expired)),
        (json!({ "exp": at(24 * 3_600) }), None),
        (json!({ "exp": at(24 * 3_600 + 120) }), Some(Refusal::TooLong)),
        (json!({ "exp": 1e300 }), Some(Refusal::TooLong)),
        (json!({ "exp": at(10) as f64 + 0.5 }), None),
        (json!({ "nbf": at(59) }), None),
        (json!({ "nbf": at(61) }), Some(Refusal::NotYetValid)),
        (json!({ "aud": ["other", "copilotd"] }), None),
        (json!({ "aud": "other" }), Some(Refusal::Audience)),
        (json!({ "aud": [] }), Some(Refusal::Audience)),
        (json!({ "tenant": "globex" }), Some(Refusal::Tenant)),
        (json!({ "tenant": "ACME" }), Some(Refusal::Tenant)),
        (json!({ "sub": "" }), Some(Refusal::Subject)),
        (json!({ "sub": "a\u{0}b" }), Some(Refusal::Subject)),
        (json!({ "sub": "x".repeat(257) }), Some(Refusal::Subject)),
        (json!({ "sub": "key:backend" }), Some(Refusal::Subject)),
        (json!({ "scope": null }), None),
        (json!({ "iat": at(0) }), None),
        (json!({ "iat": at(59) }), None),
        (json!({ "iat": at(61) }), Some(Refusal::NotYetValid)),
        (json!({ "iat": at(-23 * 3_600) }), None),
        (json!({ "iat": at(-24 * 3_600) }), Some(Refusal::TooLong)),
        (json!({ "iat": "yesterday" }), None),
        (json!({ "iat": 1e300 }), None),
        (json!({ "jti": 7 }), None),
        (json!({ "jti": "x".repeat(3_000) }), None),
    ] {
        assert_eq!(verify(&sign(&claims(change.clone()))).err(), expected, "{change}");
    }
}

/// The holder of a validly signed token is told what else is wrong.
#[test]
fn after_a_valid_signature_the_claim_that_is_missing_or_wrong_is_named() {
    let deep = (0..200).fold(json!(1), |value, _| json!([value]));
    for (change, named) in [
        (json!({ "exp": null }), "exp claim"),
        (json!({ "exp": "tomorrow" }), "exp claim"),
        (json!({ "exp": later(600).as_second().to_string() }), "exp claim"),
        (json!({ "exp": true }), "exp claim"),
        (json!({ "nbf": "now" }), "nbf claim"),
        (json!({ "nbf": 1e300 }), "nbf claim"),
        (json!({ "aud": null }), "aud claim"),
        (json!({ "aud": 7 }), "aud claim"),
        (json!({ "aud": ["copilotd", 7] }), "aud claim"),
        (json!({ "aud": "Copilotd" }), "aud claim"),
        (json!({ "sub": null }), "sub claim"),
        (json!({ "sub": 7 }), "sub claim"),
        (json!({ "sub": "" }), "sub claim"),
        (json!({ "tenant": null }), "tenant claim"),
        (json!({ "tenant": ["acme"] }), "tenant claim"),
        (json!({ "tenant": "globex" }), "tenant claim"),
        (json!({ "scope": ["chat"] }), "scope claim"),
        (json!({ "scope": { "chat": true } }), "scope claim"),
        (json!({ "deep": deep }), "nested"),
    ] {
        let refusal = verify(&sign(&claims(change.clone()))).unwrap_err();
        assert!(refusal.to_string().contains(named), "{change}: {refusal}");
        // With any other signature, nothing is revealed.
        let forged = EncodingKey::from_secret(b"another secret of at least 32 bytes");
        let forged = sign_with(&Header::new(Algorithm::HS256), &claims(change.clone()), &forged);
        assert_eq!(verify(&forged), Err(Refusal::Unknown), "{change}");
    }
}

#[test]
fn an_issuer_speaks_for_its_own_tenant_alone() {
    let globex = EncodingKey::from_secret(GLOBEX_SECRET.as_bytes());
    let header = Header::new(Algorithm::HS256);
    for (iss, tenant, expected) in [
        ("https://globex.example", "globex", None),
        ("https://globex.example", "acme", Some(Refusal::Tenant)),
        ("https://acme.example", "acme", Some(Refusal::Unknown)),
    ] {
        let token = sign_with(&header, &claims(json!({ "iss": iss, "tenant": tenant })), &globex);
        assert_eq!(verify(&token).err(), expected, "{iss} {tenant}");
    }
}

#[test]
fn keys_of_an_issuer_are_rotated_by_kid_without_a_restart() {
    let token = |kid: Option<&str>, secret: &str| {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = kid.map(str::to_owned);
        sign_with(
            &header,
            &claims(json!({})),
            &EncodingKey::from_secret(secret.as_bytes()),
        )
    };
    let both = hmac(Some("new"), SECRET) + &hmac(Some("old"), OLD_SECRET);
    let verifier = Verifier::new(&config_with(&both)).unwrap();
    for (kid, secret, known) in [
        (Some("new"), SECRET, true),
        (Some("old"), OLD_SECRET, true),
        (None, OLD_SECRET, true),
        (Some("new"), OLD_SECRET, false),
        (Some("other"), SECRET, false),
    ] {
        assert_eq!(
            verifier.verify(&token(kid, secret), None, now()).is_ok(),
            known,
            "{kid:?}"
        );
    }

    let old = token(Some("old"), OLD_SECRET);
    let caller = verifier.verify(&old, None, now()).unwrap();
    assert!(verifier.is_live(&caller));
    verifier.replace(&config_with(&hmac(Some("new"), SECRET))).unwrap();
    assert_eq!(
        verifier.verify(&old, None, now()),
        Err(Refusal::Unknown),
        "though it was remembered"
    );
    assert!(!verifier.is_live(&caller));
    assert!(verifier.verify(&token(Some("new"), SECRET), None, now()).is_ok());
}

/// The other valid signature of an ECDSA signature: (r, n − s), with the order n of P-256 (FIPS 186-4, D.1.2.3).
fn mirrored(token: &str) -> String {
    const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let order = hex::decode(ORDER).unwrap();
    let mut borrow = 0;
    for at in (0..32).rev() {
        let difference = i16::from(order[at]) - i16::from(signature[32 + at]) - borrow;
        borrow = i16::from(difference < 0);
        signature[32 + at] = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn a_token_keeps_its_name_with_another_signature() {
    let verifier = Verifier::new(&config()).unwrap();
    let (claims, header, key) = of("https://acme.example/es", Alg::Es256);
    let token = sign_with(&header, &claims, &key);
    let mirrored = mirrored(&token);
    assert_ne!(token, mirrored);
    let name = |token: &str| verifier.verify(token, None, now()).unwrap().credential;
    assert_eq!(name(&token), name(&mirrored), "or a revocation by name is passed by");
}

#[test]
fn what_is_remembered_still_ends() {
    let verifier = Verifier::new(&config()).unwrap();
    let token = sign(&claims(
        json!({ "exp": later(10).as_second(), "nbf": now().as_second() }),
    ));
    assert!(verifier.verify(&token, None, now()).is_ok());
    assert!(verifier.verify(&token, None, later(69)).is_ok());
    assert_eq!(verifier.verify(&token, None, later(70)), Err(Refusal::Expired));
    assert_eq!(verifier.verify(&token, None, later(-61)), Err(Refusal::NotYetValid));
}

#[tokio::test]
async fn a_revoked_token_ends_its_streams() {
    let revocations = Revocations::open(
        Arc::new(MemoryRevocations::default()),
        Arc::new(SteppedClock::default()),
    );
    let revocations = revocations.await.unwrap();
    let verifier = Verifier::with_revocations(&config(), revocations.list()).unwrap();
    let revoke = async |caller: &Caller| {
        let subject = Subject::Token(caller.credential.as_str().to_owned());
        let revoked = revocations.revoke(&caller.scope, subject, "root".to_owned(), None, async { Ok(()) });
        revoked.await.unwrap();
    };
    let (one, two) = (sign(&claims(json!({}))), sign(&claims(json!({ "jti": "2" }))));
    let caller = verifier.verify(&one, None, now()).unwrap();
    let other = verifier.verify(&two, None, now()).unwrap();
    assert_ne!(caller.credential, other.credential);
    let ended = verifier.ended(&caller);
    tokio::pin!(ended);
    assert!(futures::poll!(&mut ended).is_pending());
    revoke(&other).await;
    assert!(futures::poll!(&mut ended).is_pending());
    revoke(&caller).await;
    ended.await;
    assert_eq!(verifier.verify(&one, None, now()), Err(Refusal::Revoked));
}

#[test]
fn nothing_shows_a_token_or_a_secret() {
    let verifier = Verifier::new(&config()).unwrap();
    let token = sign(&claims(json!({})));
    let caller = verifier.verify(&token, None, now()).unwrap();
    let shown = format!("{verifier:?} {caller:?}");
    assert!(!shown.contains(SECRET) && !shown.contains(&token), "{shown}");
}
