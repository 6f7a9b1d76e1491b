//! Client tools: functions of the user's page that a model may call during one turn.
//!
//! A call is offered, claimed by one page, and ends once: with what the page answers, or at a time that is in the log.
//! Invariants: at most one claim of a call is ever recorded, and only its holder can answer; a call that nobody claimed
//! was not run; a claimed call without an answer ends as `unknown`, because the page may have run it.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::policy::Policy;
use crate::domain::schema::{AcceptedSchema, Violation, budget};
use crate::domain::sent_prompt::ToolOffer;
use crate::domain::weight;

/// Maximum number of client tools of a turn.
pub const MAX_TOOLS: usize = 16;
/// Maximum size of a turn's client tools together, in bytes of JSON.
pub const MAX_BYTES: usize = 32 * 1024;
/// Maximum length of a name; what providers accept.
pub const MAX_NAME: usize = 64;
/// Maximum size of what a page answers, in bytes of JSON.
pub const MAX_ANSWER: usize = 64 * 1024;
/// How long a call waits for a page to claim it.
pub const CLAIM_TIME: Duration = Duration::from_secs(60);
/// How long a page that claimed a call may take to answer.
pub const RUN_TIME: Duration = Duration::from_secs(300);

/// What is wrong with a turn's client tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientToolsFault {
    /// They are too large together.
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit in bytes.
        max: usize,
    },
    /// They break a rule, each at its place.
    Invalid(Vec<Violation>),
}

/// A claim of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Random and secret: whoever has it may answer.
    pub token: String,
    /// The `Idempotency-Key` of the request, so that its repetition gets the same answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl Claim {
    /// Returns whether a request with this key repeats the one that made the claim.
    pub fn is_repeated_by(&self, key: Option<&str>) -> bool {
        key.is_some() && self.key.as_deref() == key
    }
}

/// The client tools of a turn whose names, sizes and schemas were accepted;
/// [`accept_client_tools`](crate::ports::accept_client_tools) makes them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClientTools(Vec<ToolOffer>);

impl ClientTools {
    /// Only for tools without a [`fault`] whose schemas were accepted.
    pub(crate) fn new(tools: impl IntoIterator<Item = (String, String, AcceptedSchema)>) -> Self {
        let tools = tools.into_iter().map(|(name, description, schema)| ToolOffer {
            name,
            description,
            parameters: schema.into_source(),
        });
        Self(tools.collect())
    }

    /// Creates accepted tools for tests of what comes afterwards.
    #[cfg(feature = "fakes")]
    pub fn unchecked(tools: Vec<ToolOffer>) -> Self {
        Self(tools)
    }

    /// Lists the tools.
    pub fn iter(&self) -> std::slice::Iter<'_, ToolOffer> {
        self.0.iter()
    }

    /// Returns the tools.
    pub fn into_offers(self) -> Vec<ToolOffer> {
        self.0
    }

    /// Returns what the copilot has against these tools.
    pub(crate) fn fault_under(&self, policy: &Policy) -> Option<ClientToolsFault> {
        if !self.0.is_empty() && !policy.client_tools {
            let message = "this copilot's configuration does not allow client tools; leave them out".to_owned();
            return Some(invalid(vec![("/client_tools".to_owned(), message)]));
        }
        let own = |(_, tool): &(usize, &ToolOffer)| policy.tools.contains_key(&tool.name);
        let collisions = self.0.iter().enumerate().filter(own).map(|(index, tool)| {
            let message = format!("the copilot has a tool named {:?}; choose another name", tool.name);
            (format!("/client_tools/{index}/name"), message)
        });
        let collisions: Vec<_> = collisions.collect();
        (!collisions.is_empty()).then(|| invalid(collisions))
    }
}

/// Returns the cost of writing the tools as JSON, in bytes. An estimate that is itself cheap.
pub fn weight(tools: &[ToolOffer]) -> usize {
    let of = |tool: &ToolOffer| tool.name.len() + tool.description.len() + weight::of(&tool.parameters);
    tools.iter().map(of).sum()
}

/// Returns those of a turn's client tools that a model may call under this policy: none if the configuration forbids
/// them by now, and none whose name the copilot's own tools have by now.
pub fn callable<'a>(policy: &'a Policy, tools: &'a [ToolOffer]) -> impl Iterator<Item = &'a ToolOffer> {
    let allowed = if policy.client_tools { tools } else { &[] };
    allowed.iter().filter(|tool| !policy.tools.contains_key(&tool.name))
}

/// Returns what is wrong with client tools, apart from what only a schema checker can tell.
pub(crate) fn fault(tools: &[ToolOffer]) -> Option<ClientToolsFault> {
    if tools.len() > MAX_TOOLS {
        let message = format!("at most {MAX_TOOLS} client tools are allowed");
        return Some(invalid(vec![("/client_tools".to_owned(), message)]));
    }
    if !budget::fits(&tools, MAX_BYTES) {
        let (what, max) = ("client_tools", MAX_BYTES);
        return Some(ClientToolsFault::TooLarge { what, max });
    }
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    for (index, tool) in tools.iter().enumerate() {
        let at = |member: &str| format!("/client_tools/{index}/{member}");
        if !is_name(&tool.name) {
            let message = format!("must be 1 to {MAX_NAME} ASCII letters, digits, underscores or hyphens");
            found.push((at("name"), message));
        } else if !seen.insert(&tool.name) {
            found.push((at("name"), format!("a second tool named {:?}", tool.name)));
        }
        // Providers accept nothing else.
        if tool.parameters.get("type").and_then(serde_json::Value::as_str) != Some("object") {
            found.push((at("parameters/type"), "must be \"object\"".to_owned()));
        }
    }
    (!found.is_empty()).then(|| invalid(found))
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits)
}

fn invalid(violations: Vec<(String, String)>) -> ClientToolsFault {
    let violation = |(pointer, message)| Violation { pointer, message };
    ClientToolsFault::Invalid(violations.into_iter().map(violation).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn offer(name: &str, parameters: Value) -> ToolOffer {
        ToolOffer {
            name: name.to_owned(),
            description: "Does it.".to_owned(),
            parameters,
        }
    }

    #[test]
    fn every_fault_names_its_place() {
        let object = || json!({ "type": "object" });
        let named = |name: &str| offer(name, object());
        let long = "n".repeat(MAX_NAME + 1);
        let cases: Vec<(Vec<ToolOffer>, &[&str])> = vec![
            (vec![], &[]),
            (vec![named("a"), named("A"), named("open-page_2")], &[]),
            (vec![named(&long[1..])], &[]),
            (vec![named(&long)], &["/client_tools/0/name"]),
            (vec![named("")], &["/client_tools/0/name"]),
            (
                vec![named("a b"), named("é")],
                &["/client_tools/0/name", "/client_tools/1/name"],
            ),
            (vec![named("a"), named("a")], &["/client_tools/1/name"]),
            (
                vec![offer("a", json!({})), offer("b", json!({ "type": "array" }))],
                &["/client_tools/0/parameters/type", "/client_tools/1/parameters/type"],
            ),
            ((0..17).map(|n| named(&format!("t{n}"))).collect(), &["/client_tools"]),
        ];
        for (tools, expected) in cases {
            let found = match fault(&tools) {
                None => Vec::new(),
                Some(ClientToolsFault::Invalid(violations)) => {
                    violations.into_iter().map(|found| found.pointer).collect()
                }
                Some(other) => panic!("{other:?}"),
            };
            assert_eq!(found, expected, "{tools:?}");
        }
        let big = vec![offer(
            "a",
            json!({ "type": "object", "description": "x".repeat(MAX_BYTES) }),
        )];
        assert!(matches!(fault(&big), Some(ClientToolsFault::TooLarge { .. })));
    }
}
