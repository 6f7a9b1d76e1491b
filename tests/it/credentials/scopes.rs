//! The scopes of a credential: those it claims, as far as its issuer or key may grant them and its tenant is marked.

use copilotd::config::{Config, Env};
use copilotd::http::credentials::{Grant, MintError, Scopes, Verifier, mint};
use copilotd_actors::domain::access::key_hash::KeyHash;
use jiff::SignedDuration;
use serde_json::json;

use super::{KEY, SECRET, claims, now, sign};

const ALL: &str = "chat gateway knowledge admin operator";
const USUAL: &str = "chat gateway knowledge admin";

/// A tenant with one issuer and one key; `mark`, `issuer` and `key` are added lines of its tables.
fn config(mark: &str, issuer: &str, key: &str) -> Config {
    let hash = KeyHash::of(KEY);
    let text = format!(
        "[[tenants]]\nid = \"acme\"\n{mark}\n[[tenants.issuers]]\niss = \"https://acme.example\"\nalg = \"HS256\"\n\
         secret = {{ value = \"{SECRET}\" }}\n{issuer}\n[[tenants.api_keys]]\nname = \"backend\"\nhash = \"{hash}\"\n{key}\n"
    );
    Config::parse(&text, &Env::default(), &crate::tools::kinds()).unwrap_or_else(|faults| panic!("{faults}"))
}

const MARK: &str = "operator = true";
const EVERY: &str = "scopes = [\"chat\", \"gateway\", \"knowledge\", \"admin\", \"operator\"]";

#[test]
fn a_credential_has_what_the_file_lets_it_have() {
    let chat = "scopes = [\"chat\"]";
    for (mark, issuer, claimed, of_token) in [
        // With no setting in the file.
        ("", "", ALL, USUAL),
        ("", "", "chat", "chat"),
        ("", "", "operator", ""),
        (MARK, "", ALL, USUAL),
        // What an issuer may grant.
        ("", chat, ALL, "chat"),
        ("", chat, "gateway", ""),
        ("", "scopes = []", ALL, ""),
        // The scope operator needs both settings, and the token has to claim it.
        ("", EVERY, ALL, USUAL),
        ("operator = false", EVERY, ALL, USUAL),
        (MARK, EVERY, ALL, ALL),
        (MARK, EVERY, "chat", "chat"),
        (MARK, EVERY, "operator", "operator"),
    ] {
        let verifier = Verifier::new(&config(mark, issuer, chat)).unwrap();
        let token = sign(&claims(json!({ "scope": claimed })));
        // On first use, and then from the cache.
        for _ in 0..2 {
            let caller = verifier.verify(&token, None, now()).unwrap();
            assert_eq!(caller.scopes.to_string(), of_token, "{mark} {issuer} {claimed}");
        }
    }
    for (mark, scopes, of_key) in [
        ("", EVERY, USUAL),
        ("", "scopes = [\"operator\"]", ""),
        (MARK, EVERY, ALL),
        (MARK, chat, "chat"),
    ] {
        let verifier = Verifier::new(&config(mark, "", scopes)).unwrap();
        for user in [None, Some("ada")] {
            let caller = verifier.verify(KEY, user, now()).unwrap();
            assert_eq!(caller.scopes.to_string(), of_key, "{mark} {scopes} {user:?}");
        }
    }
}

#[tokio::test]
async fn what_is_remembered_follows_the_configuration_at_once() {
    let token = sign(&claims(json!({ "scope": ALL })));
    let verifier = Verifier::new(&config(MARK, EVERY, EVERY)).unwrap();
    let scopes = |credential: &str| verifier.verify(credential, None, now()).unwrap().scopes.to_string();
    assert_eq!((scopes(&token).as_str(), scopes(KEY).as_str()), (ALL, ALL));
    let caller = verifier.verify(&token, None, now()).unwrap();
    for (mark, issuer, expected) in [
        ("", EVERY, USUAL),
        (MARK, "scopes = [\"chat\", \"operator\"]", "chat operator"),
        (MARK, EVERY, ALL),
    ] {
        verifier.replace(&config(mark, issuer, EVERY)).unwrap();
        assert_eq!(scopes(&token), expected, "{mark} {issuer}");
        // A request admitted with more than is granted now has to authenticate again.
        assert_eq!(verifier.is_live(&caller), expected == ALL, "{mark} {issuer}");
        assert!(verifier.is_live(&verifier.verify(&token, None, now()).unwrap()));
    }
    verifier.replace(&config("", EVERY, EVERY)).unwrap();
    assert_eq!(scopes(KEY), USUAL);
    // A stream ends when a scope that it was admitted with is no longer granted.
    verifier.replace(&config("", "scopes = [\"gateway\"]", EVERY)).unwrap();
    verifier.ended(&caller).await;
    assert_eq!(scopes(&token), "gateway");
}

#[test]
fn only_what_counts_is_minted() {
    let grant = |scopes| Grant {
        tenant: "acme".parse().unwrap(),
        user: "ada".parse().unwrap(),
        scopes,
        life: SignedDuration::from_hours(1),
    };
    let operator = Scopes::CHAT | Scopes::OPERATOR;
    for (mark, issuer, scopes, minted) in [
        ("", "", Scopes::CHAT | Scopes::ADMIN, true),
        ("", "", operator, false),
        (MARK, "", operator, false),
        ("", EVERY, operator, false),
        (MARK, EVERY, operator, true),
        ("", "scopes = [\"chat\"]", Scopes::ADMIN, false),
    ] {
        let token = mint(&config(mark, issuer, EVERY), &grant(scopes), now());
        let refused = Err(MintError::NotGranted("acme".parse().unwrap(), scopes));
        assert_eq!(
            token.map(|_token| ()),
            if minted { Ok(()) } else { refused },
            "{mark} {issuer}"
        );
    }
}
