//! API keys.

use copilotd::http::credentials::{CredentialKind, Refusal, Scopes, Verifier, new_api_key};
use secrecy::ExposeSecret;
use serde_json::json;

use super::{KEY, claims, config, hmac, now, sign};

#[test]
fn a_key_acts_as_itself_or_for_a_user() {
    let verifier = Verifier::new(&config()).unwrap();
    let long = "x".repeat(257);
    for (on_behalf, expected) in [
        (None, Ok("key:backend")),
        (Some("ada"), Ok("ada")),
        (
            Some("Ada Lovelace <ada@acme.example>"),
            Ok("Ada Lovelace <ada@acme.example>"),
        ),
        (Some("key:backend"), Ok("key:backend")),
        (Some("key:other"), Err(Refusal::OnBehalf)),
        (Some(""), Err(Refusal::OnBehalf)),
        (Some("a\tb"), Err(Refusal::OnBehalf)),
        (Some(long.as_str()), Err(Refusal::OnBehalf)),
    ] {
        let caller = verifier.verify(KEY, on_behalf, now());
        assert_eq!(
            caller.as_ref().map(|caller| caller.user.as_str()).map_err(|e| *e),
            expected,
            "{on_behalf:?}"
        );
        if let Ok(caller) = caller {
            assert_eq!((caller.kind, caller.expires_at), (CredentialKind::ApiKey, None));
            assert_eq!(caller.scopes, Scopes::CHAT | Scopes::GATEWAY);
            assert_eq!(caller.scope.tenant().as_str(), "acme");
        }
    }
}

#[test]
fn a_key_has_one_role_for_whomever_it_acts() {
    let verifier = Verifier::new(&config()).unwrap();
    let role = |on_behalf| verifier.verify(KEY, on_behalf, now()).unwrap().role.unwrap();
    assert_eq!(role(None), role(Some("ada")));
    let token = sign(&claims(json!({ "scope": "chat gateway" })));
    let ada = verifier.verify(&token, None, now()).unwrap();
    assert_ne!(Some(role(Some("ada"))), ada.role, "a token is no key");
}

#[test]
fn a_user_token_acts_for_nobody_else() {
    let verifier = Verifier::new(&config()).unwrap();
    let token = sign(&claims(json!({})));
    // Both on first use and when it is cached.
    for _ in 0..2 {
        assert!(verifier.verify(&token, Some("ada"), now()).is_ok());
        assert_eq!(
            verifier.verify(&token, Some("bob"), now()),
            Err(Refusal::OnBehalfNotAllowed)
        );
    }
}

#[test]
fn only_the_whole_key_is_known() {
    let verifier = Verifier::new(&config()).unwrap();
    let (other, _) = new_api_key();
    let longer = format!("{KEY}A");
    for key in [
        &KEY[..46],
        longer.as_str(),
        "cpk_",
        other.expose_secret(),
        &KEY.to_lowercase(),
    ] {
        assert_eq!(verifier.verify(key, None, now()), Err(Refusal::Unknown), "{key}");
    }
}

#[test]
fn a_caller_is_live_with_whatever_scopes_it_was_admitted() {
    let verifier = Verifier::new(&config()).unwrap();
    for scope in ["chat", "gateway", "gateway knowledge", ""] {
        let token = sign(&claims(json!({ "scope": scope })));
        let caller = verifier.verify(&token, None, now()).unwrap();
        assert!(verifier.is_live(&caller), "{scope}");
    }
    assert!(verifier.is_live(&verifier.verify(KEY, None, now()).unwrap()));
    // A key with only the gateway scope streams answers on the OpenAI-compatible routes.
    let mut narrow = config();
    narrow.tenants[0].api_keys[0].scopes = Scopes::GATEWAY;
    let verifier = Verifier::new(&narrow).unwrap();
    assert!(verifier.is_live(&verifier.verify(KEY, None, now()).unwrap()));
}

#[tokio::test]
async fn a_replaced_key_ends() {
    let verifier = Verifier::new(&config()).unwrap();
    let caller = verifier.verify(KEY, Some("ada"), now()).unwrap();
    assert!(verifier.is_live(&caller));
    let mut replaced = super::config_with(&hmac(None, super::SECRET));
    replaced.tenants[0].api_keys.clear();
    verifier.replace(&replaced).unwrap();
    verifier.ended(&caller).await;
    assert_eq!(verifier.verify(KEY, None, now()), Err(Refusal::Unknown));
}
