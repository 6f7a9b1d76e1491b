//! Checks the arguments of client tools' calls: their schemas are a caller's, so the checks run where they can be
//! killed.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::Agent;
use crate::compute;
use crate::domain::conversation::command::ArgumentsCheck;
use crate::domain::conversation::screen::parse_arguments;
use crate::domain::policy::Policy;
use crate::domain::schema::describe;
use crate::domain::sent_prompt::ToolOffer;
use crate::domain::tool::client;
use crate::ports::{SchemaError, SchemaVerdict};

impl Agent {
    /// Checks the calls of client tools among `calls`, which are as the model wrote them. A page never sees arguments
    /// that were not found to be valid.
    pub(super) async fn check_client_calls(
        &self,
        tools: &[ToolOffer],
        policy: &Policy,
        calls: &[(String, String)],
    ) -> BTreeMap<usize, ArgumentsCheck> {
        let mut checks = BTreeMap::new();
        for (index, (name, arguments)) in calls.iter().enumerate() {
            let mut callable = client::callable(policy, tools);
            let Some(tool) = callable.find(|tool| tool.name == *name) else {
                continue;
            };
            self.shared.wait_while_left_out(&self.scope).await;
            let check = self.check_client_call(tool, arguments.clone()).await;
            checks.insert(index, check);
        }
        checks
    }

    async fn check_client_call(&self, tool: &ToolOffer, arguments: String) -> ArgumentsCheck {
        let cost = arguments.len();
        let parsed = compute::run(Some(self.scope.tenant()), cost, move || {
            let mut arguments = Value::String(arguments);
            parse_arguments(&mut arguments);
            arguments.to_string()
        });
        let Ok(arguments) = parsed.await else {
            return ArgumentsCheck::Invalid("they could not be checked; try again".to_owned());
        };
        let schema = Arc::new(tool.parameters.clone());
        match self.shared.ports.schemas.check(&self.scope, &schema, &arguments).await {
            Ok(SchemaVerdict::Valid) => ArgumentsCheck::Valid,
            Ok(SchemaVerdict::Invalid(why)) => ArgumentsCheck::Invalid(why),
            Err(SchemaError::Unusable(violation)) => ArgumentsCheck::Invalid(describe(&[violation])),
            Err(SchemaError::TooExpensive) => {
                ArgumentsCheck::Invalid("checking them took too much time or memory; use simpler ones".to_owned())
            }
            Err(error @ (SchemaError::Busy | SchemaError::Unavailable(_))) => {
                tracing::error!(
                    tenant = %self.scope.tenant(), conversation = %self.id, tool = tool.name, %error,
                    "arguments of a client tool's call could not be checked; failing the call"
                );
                ArgumentsCheck::Invalid("they could not be checked; try again".to_owned())
            }
        }
    }
}
