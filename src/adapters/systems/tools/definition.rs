//! The format of the files in `schemas/tools/`.

use std::sync::OnceLock;
use std::time::Duration;

use copilotd_actors::domain::policy::{Repeat, ToolDefinition};
use copilotd_actors::domain::schema::{InvalidSchema, Schema};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    description: String,
    system: String,
    repeat: RepeatClass,
    timeout_ms: u64,
    parameters: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RepeatClass {
    Read,
    KeyedS(u64),
    LookUp,
    Never,
}

/// Why a tool's file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidDefinition {
    #[error("not a valid tool definition")]
    Shape(#[from] serde_json::Error),
    #[error("the tool's parameters are not a usable schema")]
    Parameters(#[from] InvalidSchema),
}

/// Parses one file.
pub(super) fn parse(text: &str) -> Result<ToolDefinition, InvalidDefinition> {
    let file: File = serde_json::from_str(text)?;
    Ok(ToolDefinition {
        name: file.name,
        description: file.description,
        system: file.system,
        repeat: match file.repeat {
            RepeatClass::Read => Repeat::Read,
            RepeatClass::KeyedS(seconds) => Repeat::Keyed(Duration::from_secs(seconds)),
            RepeatClass::LookUp => Repeat::LookUp,
            RepeatClass::Never => Repeat::Never,
        },
        timeout: Duration::from_millis(file.timeout_ms),
        parameters: Schema::compile(file.parameters)?,
        tokens: OnceLock::new(),
    })
}
