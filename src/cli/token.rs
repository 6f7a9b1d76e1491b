//! `copilotd token`.

use secrecy::ExposeSecret;

use super::args::{MintArgs, Scope};
use super::{Context, Failure, print};
use crate::http::auth::{Grant, MintError, mint};

pub(super) fn run(args: &MintArgs, context: &Context) -> Result<(), Failure> {
    let (Some(tenant), Some(user)) = (&args.tenant, &args.user) else {
        return Err(Failure::usage("give --tenant and --user"));
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
