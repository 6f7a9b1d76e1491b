//! Checks of callers' schemas, which may cost anything: they run where they can be ended.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::domain::schema::budget::measure;
use crate::domain::schema::{AcceptedSchema, Violation};
use crate::tenancy::TenantScope;

/// Compiles callers' schemas and checks answers against them, within bounds of time and memory.
///
/// Contract: every call ends, whatever the schema and the answer; nothing runs on the caller's threads; a tenant whose
/// checks are expensive delays its own and not those of others; dropping a call ends its work.
#[async_trait]
pub trait SchemaChecker: Send + Sync {
    /// Finds out whether a schema that is within its budget can be compiled. Refuses at once when too many of the tenant's
    /// are waiting.
    async fn compile(&self, scope: &TenantScope, schema: &Arc<Value>) -> Result<(), SchemaError>;

    /// Checks an answer. Waits its turn.
    async fn check(&self, scope: &TenantScope, schema: &Arc<Value>, answer: &str)
    -> Result<SchemaVerdict, SchemaError>;
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaVerdict {
    /// The answer is JSON that satisfies the schema.
    Valid,
    /// It is not; in one line, fit for a model to act on.
    Invalid(String),
}

/// Why there is no verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// The schema cannot be used.
    #[error("the schema cannot be used")]
    Unusable(
        /// Where and why.
        Violation,
    ),
    /// The bounds of time or memory were reached.
    #[error("the check reached its bounds of time or memory")]
    TooExpensive,
    /// Too many checks of this tenant are waiting.
    #[error("too many schema checks of this tenant are waiting")]
    Busy,
    /// Checks cannot be run now.
    #[error("schema checks cannot be run: {0}")]
    Unavailable(String),
}

/// Lets a caller's schema in, or says why not: first the budget, then the compiler. The only way to an [`AcceptedSchema`].
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
