//! `copilotd check`: lists all errors and warnings of a configuration.

use super::args::CheckArgs;
use super::{Context, Failure, print, print_stderr, unusable};
use crate::config::{Config, Source};

/// Checks the file itself; `--online` checks what it refers to.
pub fn check(args: &CheckArgs, context: &Context) -> Result<(Config, Source), Failure> {
    let source = context.source(&args.config)?;
    let source = match args.no_secrets {
        true => source.without_secrets(),
        false => source,
    };
    let config = source
        .config()
        .map_err(|faults| unusable(&args.config, &source.report_all(&faults)))?;
    let mut warnings = config.warnings(context.now);
    warnings.extend(source.warnings());
    for warning in source.report(&warnings) {
        print_stderr(&format!("warning: {warning}"));
    }
    let copilots: usize = config.tenants.iter().map(|tenant| tenant.copilots.len()).sum();
    let secrets = match args.no_secrets {
        true => "; secrets were not checked",
        false => "",
    };
    print(&format!(
        "{}: ok, {} tenants, {copilots} copilots{secrets}\n",
        args.config.config.display(),
        config.tenants.len()
    ))?;
    Ok((config, source))
}
