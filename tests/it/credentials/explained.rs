//! `copilotd token verify`: each fault of a token is one clear reason and an exit code.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::{SECRET, claims, sign_with};

const CONFIG: &str = r#"
[[tenants]]
id = "acme"
[[tenants.issuers]]
iss = "https://acme.example"
alg = "HS256"
kid = "2026-11"
secret = { env = "ACME_JWT_SECRET" }
[[tenants.issuers]]
iss = "https://acme.example/ed"
alg = "EdDSA"
pem = { file = "tests/it/credentials/keys/ed25519.pub.pem" }
[[tenants.issuers]]
iss = "https://acme.example/chat"
alg = "HS256"
secret = { env = "ACME_JWT_SECRET" }
scopes = ["chat"]
[[tenants]]
id = "globex"
"#;

fn verify(config: &std::path::Path, token: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_copilotd"))
        .args(["token", "verify", "--config", config.to_str().unwrap()])
        .env("ACME_JWT_SECRET", SECRET)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// A valid token for an hour with these claims changed, signed with acme's secret unless `header` says otherwise.
fn token(header: &Header, change: Value, secret: &str) -> String {
    // The program reads the real clock.
    let end = Timestamp::now().as_second() + 3_600;
    let mut all = claims(json!({ "iat": end - 3_600, "exp": end }));
    for (name, value) in change.as_object().unwrap() {
        if value.is_null() {
            all.as_object_mut().unwrap().remove(name);
        } else {
            all[name] = value.clone();
        }
    }
    let key = match header.alg {
        Algorithm::EdDSA => {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/credentials/keys/ed25519.pem");
            EncodingKey::from_ed_pem(&std::fs::read(path).unwrap()).unwrap()
        }
        _ => EncodingKey::from_secret(secret.as_bytes()),
    };
    sign_with(header, &all, &key)
}

#[test]
fn each_fault_of_a_token_is_one_reason() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("copilotd.toml");
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/credentials/keys/");
    std::fs::write(&path, CONFIG.replace("tests/it/credentials/keys/", keys)).unwrap();

    let plain = Header::new(Algorithm::HS256);
    let of_key = |kid: &str| Header {
        kid: Some(kid.to_owned()),
        ..Header::new(Algorithm::HS256)
    };
    let now = Timestamp::now().as_second();
    let changed = |change: Value| token(&plain, change, SECRET);
    let ed = json!({ "iss": "https://acme.example/ed" });

    for good in [
        changed(json!({})),
        token(&of_key("2026-11"), json!({ "aud": ["other", "copilotd"] }), SECRET),
        token(&Header::new(Algorithm::EdDSA), ed.clone(), SECRET),
    ] {
        let output = verify(&path, &good);
        let told = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert!(!told.contains("FAIL") && told.contains("accepted"), "{told}");
    }

    let faults = [
        (
            "iss",
            changed(json!({ "iss": "https://other.example" })),
            "no tenant has an issuer with iss \"https://other.example\"",
        ),
        (
            "no iss",
            changed(json!({ "iss": null })),
            "the iss claim is missing or not a string",
        ),
        (
            "kid",
            token(&of_key("2025-01"), json!({}), SECRET),
            "the issuer has no key with kid \"2025-01\"",
        ),
        (
            "alg",
            changed(ed),
            "the token's alg is HS256, but the issuer's key is for EdDSA",
        ),
        (
            "signature",
            token(&plain, json!({}), super::GLOBEX_SECRET),
            "signature mismatch: the token was signed with another key or secret, or was changed",
        ),
        (
            "aud",
            changed(json!({ "aud": "other" })),
            "the token's aud claim must be or contain \"copilotd\"",
        ),
        ("no aud", changed(json!({ "aud": null })), "the token has no aud claim"),
        (
            "tenant",
            changed(json!({ "tenant": "globex" })),
            "the token's tenant claim is not the tenant of its issuer",
        ),
        (
            "no tenant",
            changed(json!({ "tenant": null })),
            "the token has no tenant claim",
        ),
        ("no sub", changed(json!({ "sub": null })), "the token has no sub claim"),
        (
            "sub of a key",
            changed(json!({ "sub": "key:backend" })),
            "the token's sub claim must be 1 to 256 bytes without control characters, and must not start with the \
             reserved prefix key:",
        ),
        (
            "expired",
            changed(json!({ "iat": now - 7_200, "exp": now - 3_600 })),
            "the credential has expired (for a token: its exp claim is in the past)",
        ),
        (
            "exp too far from now",
            changed(json!({ "iat": null, "exp": now + 25 * 3_600 })),
            "the token is valid for more than 24 hours: its exp claim is too far from now or from iat",
        ),
        (
            "exp too far from iat",
            changed(json!({ "iat": now - 23 * 3_600, "exp": now + 2 * 3_600 })),
            "the token is valid for more than 24 hours: its exp claim is too far from now or from iat",
        ),
        ("no exp", changed(json!({ "exp": null })), "the token has no exp claim"),
        (
            "exp as text",
            changed(json!({ "exp": "tomorrow" })),
            "the token's exp claim must be a number of seconds since 1970-01-01T00:00:00Z",
        ),
        (
            "issued in the future",
            changed(json!({ "iat": now + 1_800 })),
            "the token is not valid yet: its nbf or iat claim is in the future",
        ),
        (
            "no scope",
            changed(json!({ "scope": null })),
            "granted scopes: none: every route that needs a scope answers 403",
        ),
        (
            "unknown scope",
            changed(json!({ "scope": "chatting" })),
            "granted scopes: none: every route that needs a scope answers 403",
        ),
        (
            "scope that the issuer may not grant",
            changed(json!({ "iss": "https://acme.example/chat", "scope": "admin" })),
            "granted scopes: none: every route that needs a scope answers 403; the issuer \
             \"https://acme.example/chat\" may not grant: admin",
        ),
        (
            "scope as a list",
            changed(json!({ "scope": ["chat"] })),
            "the token's scope claim must be a string of space-separated names",
        ),
        (
            "no token",
            "a.b".to_owned(),
            "not a JWT: expected three base64url parts separated by dots, the first two of them JSON objects",
        ),
    ];
    // What the guide lists is among them, word for word.
    let guide = include_str!("../../../docs/integrate/tokens.md");
    let (_, table) = guide.split_once("| what is wrong | what it prints |").unwrap();
    let listed = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let listed: Vec<&str> = listed.filter_map(|line| line.rsplit('`').nth(1)).collect();
    assert_eq!(listed.len(), 10);
    for reason in listed {
        let is_tested = faults.iter().any(|(.., tested)| *tested == reason);
        assert!(is_tested, "the guide has a reason that is not tested: {reason}");
    }

    for (what, wrong, reason) in faults {
        let output = verify(&path, &wrong);
        let told = String::from_utf8(output.stdout).unwrap();
        let reasons: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("FAIL  ")).collect();
        assert_eq!(reasons, [reason], "{what}: {told}");
        assert_eq!(output.status.code(), Some(1), "{what}: {told}");
        assert!(!told.contains(&wrong), "{what}: the token is not repeated");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("does not accept the credential"), "{what}: {said}");
    }
}

#[test]
fn wrong_use_is_exit_code_2() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("copilotd.toml");
    std::fs::write(&path, "[[tenants]]\nid = \"acme\"\n").unwrap();
    let output = verify(&path, " \n");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("pass a token"));
    std::fs::write(&path, "[[tenants]]\nid = 7\n").unwrap();
    assert_eq!(verify(&path, "a.b.c").status.code(), Some(2));
}
