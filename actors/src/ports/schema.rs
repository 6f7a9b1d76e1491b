//! Checks against callers' schemas. Their cost is unbounded, so they run where they can be killed.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::domain::conversation::decide::Rejection;
use crate::domain::schema::budget::measure;
use crate::domain::schema::{AcceptedSchema, Violation};
use crate::domain::sent_prompt::ToolOffer;
use crate::domain::tool::client::{self, ClientTools};
use crate::tenancy::TenantScope;

/// Compiles callers' schemas and checks answers against them, within limits on time and memory.
///
/// Contract: every call ends, whatever the schema and the answer; nothing runs on the caller's threads; a tenant with
/// expensive checks delays only its own; dropping a call ends its work.
#[async_trait]
pub trait SchemaChecker: Send + Sync {
    /// Checks whether a schema that is within its budget compiles. Fails at once if too many checks of the tenant are
    /// waiting.
    async fn compile(&self, scope: &TenantScope, schema: &Arc<Value>) -> Result<(), SchemaError>;

    /// Checks an answer. Waits for its turn.
    async fn check(&self, scope: &TenantScope, schema: &Arc<Value>, answer: &str)
    -> Result<SchemaVerdict, SchemaError>;
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaVerdict {
    /// The answer is JSON that satisfies the schema.
    Valid,
    /// The answer is invalid; the text says why in one line that a model can act on.
    Invalid(String),
}

/// Why there is no verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// The schema is unusable.
    #[error("the schema is not usable")]
    Unusable(
        /// Where and why.
        Violation,
    ),
    /// The time or memory limit was reached.
    #[error("the schema check reached its time or memory limit")]
    TooExpensive,
    /// Too many checks of this tenant are waiting.
    #[error("too many schema checks of this tenant are waiting; retry later")]
    Busy,
    /// Checks cannot be run at present.
    #[error("schema checks are unavailable: {0}")]
    Unavailable(String),
}

/// Accepts a caller's schema or says why not: first the budget, then the compiler. The only way to obtain an
/// [`AcceptedSchema`].
pub async fn accept(
    checker: &dyn SchemaChecker,
    scope: &TenantScope,
    source: Value,
) -> Result<AcceptedSchema, SchemaError> {
    measure(&source).map_err(SchemaError::Unusable)?;
    let source = Arc::new(source);
    checker.compile(scope, &source).await?;
    Ok(AcceptedSchema::new(source))
}

/// Why the client tools of a turn are not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientToolsError {
    /// Their number, size or names.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The parameters of the tool at this index.
    #[error("the parameters of client tool {0} are not accepted")]
    Parameters(usize, #[source] SchemaError),
}

/// Accepts the client tools of a turn or says why not. The only way to obtain [`ClientTools`].
pub async fn accept_client_tools(
    checker: &dyn SchemaChecker,
    scope: &TenantScope,
    tools: Vec<ToolOffer>,
) -> Result<ClientTools, ClientToolsError> {
    if let Some(fault) = client::fault(&tools) {
        return Err(Rejection::from(fault).into());
    }
    let mut accepted = Vec::with_capacity(tools.len());
    for (index, tool) in tools.into_iter().enumerate() {
        let schema = accept(checker, scope, tool.parameters).await;
        let schema = schema.map_err(|error| ClientToolsError::Parameters(index, error))?;
        accepted.push((tool.name, tool.description, schema));
    }
    Ok(ClientTools::new(accepted))
}
