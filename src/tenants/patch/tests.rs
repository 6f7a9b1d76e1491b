//! Patches, and where secrets may go.

use super::*;
use crate::config::{Env, Source, SystemKinds};

#[test]
fn merging() {
    // The examples of RFC 7396, appendix A.
    for (target, patch, result) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        ),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (
            json!({"a": "c"}),
            json!({"a": {"bb": {"ccc": null}}}),
            json!({"a": {"bb": {}}}),
        ),
        // Not from the RFC: a secret counts as a single value.
        (
            json!({"a": {"env": "X"}}),
            json!({"a": {"value": "y"}}),
            json!({"a": {"value": "y"}}),
        ),
        (
            json!({"a": {"kept": "0"}}),
            json!({"a": {"file": "/x", "value": null}}),
            json!({"a": {"file": "/x"}}),
        ),
    ] {
        let mut merged = target.clone();
        merge(&mut merged, &patch);
        assert_eq!(merged, result, "{target} {patch}");
    }
}

const HOST: &str = "https://acme.zendesk.com";

fn seal() -> Cipher {
    Cipher::new(&[1; 32])
}

/// Settings with a secret of each kind.
fn old() -> Value {
    json!({
        "issuers": [
            { "iss": "https://a.example", "alg": "HS256", "secret": { "value": "secret of a" } },
            { "iss": "https://b.example", "alg": "HS256", "secret": { "value": "secret of b" } },
        ],
        "provider_keys": [
            { "provider": "main", "api_key": { "value": "main key" } },
            { "provider": "other", "api_keys": [{ "value": "one" }, { "value": "two" }] },
        ],
        "zendesk": { "base_url": HOST, "email": "bot@acme.example", "token": { "env": "ZENDESK" } },
        "slack": { "bot_token": { "value": "xoxb" }, "signing_secret": { "value": "signing" } },
    })
}

fn file() -> FileTable {
    let text = format!(
        "[[tenants]]\nid = \"acme\"\n[tenants.zendesk]\nbase_url = \"{HOST}\"\nemail = \"bot@acme.example\"\n\
         token = {{ env = \"ZENDESK\" }}\n"
    );
    let source = Source::parse(&text, &Env::default(), &SystemKinds::default()).unwrap();
    source.tenant("acme").unwrap().clone()
}

fn shown() -> Value {
    let mut shown = old();
    redact(&mut shown, &seal());
    shown
}

fn pointers(settled: Result<Value, Vec<SettingsFault>>) -> Vec<String> {
    let faults = settled.err().unwrap_or_default();
    faults.into_iter().map(|fault| fault.pointer).collect()
}

#[test]
fn what_is_shown_and_given_back_stays_what_it_is() {
    let shown = shown();
    for secret in ["secret of", "main key", "\"one\"", "two", "xoxb", "signing\""] {
        assert!(!shown.to_string().contains(secret), "{secret}");
    }
    assert_eq!(shown["zendesk"]["token"], json!({ "env": "ZENDESK" }));
    assert_eq!(replaced(&old(), shown.clone(), Some(&file()), &seal()), Ok(old()));
    assert_eq!(patched(&old(), &json!({}), Some(&file()), &seal()), Ok(old()));
    // Lists may be reordered, and their items renamed.
    let mut moved = shown;
    moved["issuers"].as_array_mut().unwrap().reverse();
    moved["issuers"][0]["kid"] = json!("2027");
    moved["provider_keys"].as_array_mut().unwrap().reverse();
    moved["provider_keys"][0]["api_keys"].as_array_mut().unwrap().reverse();
    moved["slack"]["base_url"] = json!("https://SLACK.com/api");
    moved["zendesk"]["base_url"] = json!("https://acme.zendesk.com:443/");
    let settled = replaced(&old(), moved, Some(&file()), &seal()).unwrap();
    assert_eq!(settled["issuers"][0]["secret"], json!({ "value": "secret of b" }));
    assert_eq!(
        settled["provider_keys"][0]["api_keys"],
        json!([{ "value": "two" }, { "value": "one" }])
    );
}

#[test]
fn no_secret_follows_to_another_place() {
    let shown = shown();
    let changed = |pointer: &str, value: Value| {
        let mut given = shown.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        given.pointer_mut(parent).unwrap()[name] = value;
        given
    };
    let kept = |pointer: &str| shown.pointer(pointer).unwrap().clone();
    for (given, expected) in [
        (
            changed("/zendesk/base_url", json!("https://evil.example")),
            vec!["/zendesk/token"],
        ),
        (
            changed("/zendesk/base_url", json!("http://acme.zendesk.com")),
            vec!["/zendesk/token"],
        ),
        (
            changed("/zendesk/base_url", json!("https://acme.zendesk.com.")),
            vec!["/zendesk/token"],
        ),
        (
            changed("/zendesk/base_url", json!("https://acme.zendesk.com/x")),
            vec!["/zendesk/token"],
        ),
        (changed("/zendesk/base_url", json!(5)), vec!["/zendesk/token"]),
        (
            changed("/slack/base_url", json!("https://evil.example")),
            vec!["/slack/bot_token", "/slack/signing_secret"],
        ),
        (
            changed("/issuers/0/iss", json!("https://evil.example")),
            vec!["/issuers/0/secret"],
        ),
        (
            changed("/provider_keys/0/provider", json!("other")),
            vec!["/provider_keys/0/api_key"],
        ),
        // From one slot to another, and from one system to another.
        (
            changed("/zendesk/oauth_token", json!({ "env": "ZENDESK" })),
            vec!["/zendesk/oauth_token"],
        ),
        (
            changed("/zendesk/token", kept("/slack/bot_token")),
            vec!["/zendesk/token"],
        ),
        (
            changed("/slack/bot_token", kept("/slack/signing_secret")),
            vec!["/slack/bot_token"],
        ),
        (
            changed("/issuers/0/secret", kept("/issuers/1/secret")),
            vec!["/issuers/0/secret"],
        ),
        (
            changed("/issuers/0/secret", json!({ "kept": "0" })),
            vec!["/issuers/0/secret"],
        ),
        (
            changed("/slack/bot_token", json!({ "env": "ZENDESK" })),
            vec!["/slack/bot_token"],
        ),
        (
            changed("/slack/bot_token", json!({ "file": "/etc/passwd" })),
            vec!["/slack/bot_token"],
        ),
    ] {
        let merged = patched(&old(), &given, Some(&file()), &seal());
        assert_eq!(
            pointers(replaced(&old(), given.clone(), Some(&file()), &seal())),
            expected,
            "{given:#}"
        );
        assert_eq!(pointers(merged), expected, "{given:#}");
    }
    // The patch of the address alone, and the same with the secret given again.
    let moved = json!({ "zendesk": { "base_url": "https://new.example" } });
    assert_eq!(
        pointers(patched(&old(), &moved, Some(&file()), &seal())),
        ["/zendesk/token"]
    );
    let with = json!({ "zendesk": { "base_url": "https://new.example", "token": { "value": "new" } } });
    let settled = patched(&old(), &with, Some(&file()), &seal()).unwrap();
    assert_eq!(settled["zendesk"]["token"], json!({ "value": "new" }));
    let without = json!({ "zendesk": null });
    assert!(patched(&old(), &without, Some(&file()), &seal()).is_ok());
}

#[test]
fn a_reference_is_the_files_or_refused() {
    for token in [
        json!({ "env": "PATH" }),
        json!({ "file": "/etc/passwd" }),
        json!({ "file": "/etc/passwd", "value": null, "env": null, "kept": null }),
        json!({ "env": "PATH", "value": null }),
    ] {
        let patch = json!({ "zendesk": { "token": token } });
        assert_eq!(
            pointers(patched(&old(), &patch, Some(&file()), &seal())),
            ["/zendesk/token"],
            "{patch}"
        );
    }
    // Without the file's table no reference is allowed.
    assert_eq!(pointers(patched(&old(), &json!({}), None, &seal())), ["/zendesk/token"]);
}
