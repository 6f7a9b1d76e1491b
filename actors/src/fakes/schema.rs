//! A scripted schema checker that runs in the caller's task.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use crate::domain::schema::check::Checker;
use crate::ports::{SchemaChecker, SchemaError, SchemaVerdict};
use crate::tenancy::TenantScope;

/// A checker that gives real results unless a script says otherwise. Clones share everything.
#[derive(Clone, Default)]
pub struct FakeChecker(Arc<Inner>);

#[derive(Default)]
struct Inner {
    checks: Mutex<VecDeque<Script>>,
    compiles: Mutex<VecDeque<SchemaError>>,
    begun: watch::Sender<usize>,
}

/// The scripted result of one check.
#[derive(Debug, Clone)]
pub enum Script {
    /// The check fails with this error.
    Fail(SchemaError),
    /// The check never ends by itself.
    Hang,
}

impl FakeChecker {
    /// Uses `script` for the next check that has none yet.
    pub fn script(&self, script: Script) {
        self.0.checks.lock().push_back(script);
    }

    /// Rejects the next schema that is compiled.
    pub fn refuse(&self, error: SchemaError) {
        self.0.compiles.lock().push_back(error);
    }

    /// Returns the number of checks that were started.
    pub fn begun(&self) -> usize {
        *self.0.begun.borrow()
    }

    /// Waits until `count` checks were started.
    pub async fn wait_for(&self, count: usize) {
        // The sender lives in `self`.
        let _ = self.0.begun.subscribe().wait_for(|begun| *begun >= count).await;
    }
}

#[async_trait]
impl SchemaChecker for FakeChecker {
    async fn compile(&self, _: &TenantScope, schema: &Arc<Value>) -> Result<(), SchemaError> {
        if let Some(error) = self.0.compiles.lock().pop_front() {
            return Err(error);
        }
        Checker::compile(schema).map(|_| ()).map_err(SchemaError::Unusable)
    }

    async fn check(&self, _: &TenantScope, schema: &Arc<Value>, answer: &str) -> Result<SchemaVerdict, SchemaError> {
        self.0.begun.send_modify(|begun| *begun += 1);
        let script = self.0.checks.lock().pop_front();
        match script {
            Some(Script::Fail(error)) => return Err(error),
            Some(Script::Hang) => std::future::pending().await,
            None => {}
        }
        let checker = Checker::compile(schema).map_err(SchemaError::Unusable)?;
        Ok(match checker.check(answer) {
            Ok(()) => SchemaVerdict::Valid,
            Err(why) => SchemaVerdict::Invalid(why),
        })
    }
}
