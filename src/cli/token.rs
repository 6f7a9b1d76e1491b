//! `copilotd token` and `copilotd token verify`.

use std::io::Read as _;

use secrecy::{ExposeSecret, SecretString};

use super::args::{MintArgs, Scope, VerifyArgs};
use super::{Context, Failure, print};
use crate::http::credentials::{Grant, MintError, explain, mint};

/// Longest credential that is read, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

pub(super) fn run(args: &MintArgs, context: &Context) -> Result<(), Failure> {
    let (Some(tenant), Some(user)) = (&args.tenant, &args.user) else {
        return Err(Failure::usage("--tenant and --user are required"));
    };
    let config = context.config(&args.config)?;
    let grant = Grant {
        tenant: tenant.clone(),
        user: user.clone(),
        scopes: Scope::set(&args.scopes),
        life: args.ttl,
    };
    let token = mint(&config, &grant, context.now).map_err(|error| match error {
        MintError::NoTenant(_) | MintError::Life | MintError::Reserved | MintError::NotGranted(..) => {
            Failure::usage(error.to_string())
        }
        MintError::NoSecret(_) | MintError::Sign => Failure::failed(error.to_string()),
    })?;
    print(&format!("{}\n", token.expose_secret()))
}

/// Explains a credential; fails if it is not accepted.
pub async fn verify(args: &VerifyArgs, context: &Context) -> Result<(), Failure> {
    let config = context.config(&args.config)?;
    let credential = credential(args.credential.as_ref())?;
    let explained = explain(&config, credential.expose_secret(), context.now).await;
    let explained = explained.map_err(|error| Failure::usage(error.to_string()))?;
    for finding in &explained.findings {
        let mark = if finding.holds { "ok  " } else { "FAIL" };
        print(&format!("{mark}  {}\n", finding.text))?;
    }
    if explained.accepted() {
        print("accepted by this configuration; revocations in a running server were not checked\n")
    } else {
        Err(Failure::failed("this configuration does not accept the credential"))
    }
}

fn credential(given: Option<&SecretString>) -> Result<SecretString, Failure> {
    let text = match given.map(SecretString::expose_secret) {
        Some(text) if text != "-" => text.to_owned(),
        _ => {
            let mut text = String::new();
            let read = std::io::stdin().take(MAX_BYTES).read_to_string(&mut text);
            read.map_err(|error| Failure::failed(format!("cannot read standard input: {error}")))?;
            text
        }
    };
    // Also accepts a whole `Authorization` header.
    let text = text.trim();
    let text = text.strip_prefix("Authorization:").unwrap_or(text).trim();
    let text = text.strip_prefix("Bearer ").unwrap_or(text).trim();
    if text.is_empty() {
        return Err(Failure::usage(
            "pass a token or API key as the argument or on standard input",
        ));
    }
    Ok(text.into())
}
