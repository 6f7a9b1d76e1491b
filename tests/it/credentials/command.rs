//! `copilotd check`, `token` and `key`, by running the program.

use std::process::{Command, Output};

use copilotd::config::{Config, Env};
use copilotd::http::credentials::{Grant, MintError, Scopes, Verifier, mint};
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;

use super::{config, config_with, hmac, later, now};

#[test]
fn a_minted_token_is_accepted() {
    let grant = Grant {
        tenant: "acme".parse().unwrap(),
        user: "ada".parse().unwrap(),
        scopes: Scopes::CHAT | Scopes::ADMIN,
        life: SignedDuration::from_hours(24),
    };
    let both = hmac(Some("new"), super::SECRET) + &hmac(Some("old"), super::OLD_SECRET);
    for config in [config(), config_with(&both)] {
        let token = mint(&config, &grant, now()).unwrap();
        let caller = Verifier::new(&config)
            .unwrap()
            .verify(token.expose_secret(), None, now())
            .unwrap();
        assert_eq!(
            (caller.scopes, caller.expires_at),
            (grant.scopes, Some(later(24 * 3_600)))
        );
    }
    let with = |change: &dyn Fn(&mut Grant)| {
        let mut grant = grant.clone();
        change(&mut grant);
        mint(&config(), &grant, now()).map(|_token| ())
    };
    assert_eq!(
        with(&|grant| grant.life = SignedDuration::from_secs(24 * 3_600 + 1)),
        Err(MintError::Life)
    );
    assert_eq!(with(&|grant| grant.life = SignedDuration::ZERO), Err(MintError::Life));
    assert_eq!(
        with(&|grant| grant.user = "key:x".parse().unwrap()),
        Err(MintError::Reserved)
    );
    let nobody: copilotd_actors::domain::ids::TenantId = "nobody".parse().unwrap();
    assert_eq!(
        with(&|grant| grant.tenant = nobody.clone()),
        Err(MintError::NoTenant(nobody.clone()))
    );
    let public = config_with("");
    assert_eq!(
        mint(&public, &grant, now()).err(),
        Some(MintError::NoSecret(grant.tenant.clone()))
    );
}

fn copilotd(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_copilotd"))
        .args(args)
        .env("ACME_JWT_SECRET", super::SECRET)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_program_checks_mints_and_makes_keys() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("copilotd.toml");
    let file = path.to_str().unwrap();
    let good = "[[tenants]]\nid = \"acme\"\n[[tenants.issuers]]\niss = \"https://acme.example\"\nalg = \"HS256\"\n\
                secret = { env = \"ACME_JWT_SECRET\" }\n";

    std::fs::write(&path, good).unwrap();
    let fine = copilotd(&["check", "--config", file]);
    assert_eq!(fine.status.code(), Some(0), "{}", text(&fine.stderr));

    let token = copilotd(&[
        "token",
        "--config",
        file,
        "--tenant",
        "acme",
        "--user",
        "ada",
        "--scope",
        "chat,admin",
    ]);
    assert_eq!(token.status.code(), Some(0), "{}", text(&token.stderr));
    let key = copilotd(&[
        "key", "create", "--scope", "gateway", "--scope", "chat", "--name", "crm",
    ]);
    assert_eq!(key.status.code(), Some(0));
    let table = text(&key.stdout);
    // Standard output is not a terminal here, so it must not contain the secret.
    assert!(!table.contains("cpk_") && table.contains("hash = \"sha256:"), "{table}");
    let said = text(&key.stderr);
    let secret = said.split_whitespace().find(|word| word.starts_with("cpk_")).unwrap();
    let kept = directory.path().join("key.txt");
    let args = [
        "key",
        "create",
        "--scope",
        "gateway",
        "--secret-file",
        kept.to_str().unwrap(),
    ];
    let made = copilotd(&args);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    assert!(!text(&made.stdout).contains("cpk_") && !text(&made.stderr).contains("cpk_"));
    assert!(std::fs::read_to_string(&kept).unwrap().starts_with("cpk_"));
    assert_eq!(
        copilotd(&args).status.code(),
        Some(1),
        "an existing file is not overwritten"
    );

    // The output of `key create` can be pasted unchanged.
    let env = Env::from_iter([("ACME_JWT_SECRET", super::SECRET)]);
    let config = Config::parse(&format!("{good}{table}"), &env, &crate::tools::kinds())
        .unwrap_or_else(|faults| panic!("{faults}"));
    let verifier = Verifier::new(&config).unwrap();
    let caller = verifier.verify(secret, None, now()).unwrap();
    assert_eq!(
        (caller.user.as_str(), caller.scopes),
        ("key:crm", Scopes::GATEWAY | Scopes::CHAT)
    );
    let caller = verifier
        .verify(text(&token.stdout).trim(), None, Timestamp::now())
        .unwrap();
    assert_eq!(
        (caller.user.as_str(), caller.scopes),
        ("ada", Scopes::CHAT | Scopes::ADMIN)
    );

    std::fs::write(
        &path,
        format!("{good}\n[server]\nlisten = \"nowhere\"\n[store]\nkind = \"mongodb\"\n"),
    )
    .unwrap();
    let wrong = copilotd(&["check", "--config", file]);
    assert_eq!((wrong.status.code(), text(&wrong.stdout)), (Some(2), String::new()));
    let named = text(&wrong.stderr);
    assert!(
        named.contains("server.listen: ") && named.contains("store.url: "),
        "{named}"
    );
}

#[test]
fn wrong_use_is_told_from_failure() {
    for (args, code) in [
        (&["--version"][..], 0),
        (&["--help"], 0),
        (&["token", "--help"], 0),
        (&["projections", "rebuild", "--help"], 0),
        (&[], 2),
        (&["fly"], 2),
        (&["key", "create"], 2),
        (&["key", "create", "--scope", "root"], 2),
        (&["key", "create", "--scope", "chat", "--name", "a b"], 2),
        (&["check", "--config", "no/such/file"], 2),
        (&["token", "--tenant", "ACME", "--user", "ada"], 2),
        (&["token", "--tenant", "acme", "--user", "ada", "--ttl", "soon"], 2),
    ] {
        let output = copilotd(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
        assert_eq!(output.stderr.is_empty(), code == 0, "{args:?}");
    }
    let version = text(&copilotd(&["--version"]).stdout);
    assert!(version.starts_with("copilotd 0.1.0 ("), "{version}");
}
