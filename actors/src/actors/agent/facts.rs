//! What a turn knows about its user, and what may be learned from the turn.
//!
//! Invariants: nothing here fails a turn or delays it by more than a constant; only the user's own message of this turn is handed
//! over to be learned from, as the log holds it: what the guardrails replaced in it is not in it, and a turn that they ended
//! has no step. A copilot without `memory.facts` neither reads nor writes.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use metrics::counter;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Agent;
use super::knowledge::Asked;
use crate::domain::context::gathered::{Passage, PassageKind};
use crate::domain::context::project::fact_text;
use crate::domain::context::question::Question;
use crate::domain::context_record::{ContextItem, ItemKind, Omitted};
use crate::domain::guardrail::{self as guard, ContentKind, Finding, Verdict, judge};
use crate::domain::weight;
use crate::ports::{Content, Facts, FactsError, FactsQuery, KnownFact, LearnRequest};

/// Maximum number of facts of one turn; the bound in tokens allows fewer.
const LIMIT: usize = 64;
/// Time limit for what is known. Within it a turn waits for what is still being learned from the user's earlier turns.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit for handing over the message.
const LEARN_TIMEOUT: Duration = Duration::from_secs(2);
/// Priority of the best fact among the optional parts of a prompt: before the chunks, because facts are short.
const PRIORITY: u8 = 255;

/// What one attempt of a turn knows about its user.
#[derive(Debug, Default)]
pub(super) struct TurnFacts {
    /// The facts as the model reads them, in the order in which they were said, so that a new one stands last.
    pub passages: Vec<Passage>,
    /// Facts that the guardrails withhold.
    pub withheld: Vec<ContextItem<Omitted>>,
}

impl Agent {
    /// Returns what is known about the user, and hands over what the user wrote to be learned from.
    pub(super) async fn facts(&self, asked: &Asked<'_>) -> TurnFacts {
        let Some(facts) = &self.shared.ports.facts else {
            return TurnFacts::default();
        };
        // An API key that acts for nobody has no memory.
        if !asked.policy.memory.facts || self.user.is_key() {
            return TurnFacts::default();
        }
        let message = Question::whole(asked.memory).unwrap_or_default();
        let (known, ()) = tokio::join!(
            self.known(facts.as_ref(), asked, &message),
            self.learn(facts.as_ref(), asked, &message)
        );
        self.checked(asked, known).await
    }

    async fn known(&self, facts: &dyn Facts, asked: &Asked<'_>, message: &str) -> Vec<KnownFact> {
        let query = FactsQuery {
            user: self.user.clone(),
            turn: asked.at.turn,
            text: message.to_owned(),
            limit: LIMIT,
        };
        let known = within(KNOWN_TIMEOUT, facts.known(&self.scope, &query)).await;
        let (known, outcome) = match known {
            Ok(known) if known.is_late => (known.facts, "late"),
            Ok(known) => (known.facts, "completed"),
            Err(error) => {
                tracing::warn!(tenant = %self.scope.tenant(), conversation = %self.id, %error, "facts about the user could not be read; running the turn without them");
                (Vec::new(), "unavailable")
            }
        };
        counter!("copilotd_fact_reads_total", "outcome" => outcome).increment(1);
        known
    }

    async fn learn(&self, facts: &dyn Facts, asked: &Asked<'_>, message: &str) {
        let request = LearnRequest {
            user: self.user.clone(),
            conversation: self.id,
            turn: asked.at.turn,
            message: message.to_owned(),
            said_at: asked.accepted_at,
            copilot: asked.policy.copilot.clone(),
            route: asked.policy.small_route.clone(),
            api_key: asked.api_key.map(str::to_owned),
        };
        if let Err(error) = within(LEARN_TIMEOUT, facts.learn(&self.scope, request)).await {
            tracing::warn!(tenant = %self.scope.tenant(), conversation = %self.id, %error, "no facts are learned from this turn");
        }
    }

    /// Lets the guardrails look at the facts, because their rules may have changed since. A fact of which they would replace a
    /// part is withheld: it would say something else.
    async fn checked(&self, asked: &Asked<'_>, known: Vec<KnownFact>) -> TurnFacts {
        if known.is_empty() {
            return TurnFacts::default();
        }
        let content = |fact: &KnownFact| {
            let value = json!([fact.text]);
            let cost = weight::of(&value) * guard::COST_PER_BYTE;
            Content::new(ContentKind::RetrievedText, value, cost)
        };
        let contents: Vec<Content> = known.iter().map(content).collect();
        let inspected = self
            .shared
            .guardrails
            .inspect(&self.scope, &asked.policy.rules, &contents)
            .await;
        let findings = inspected.unwrap_or_else(|error| {
            tracing::warn!(tenant = %self.scope.tenant(), conversation = %self.id, %error, "facts about the user could not be checked; withholding them");
            known.iter().map(|_| vec![Finding::unreadable()]).collect()
        });
        let nonce = asked.memory.blocks.front().and_then(|block| block.nonce.clone());
        prepare(known, &findings, nonce.as_deref())
    }
}

/// Waits for an adapter, whatever it does: it may hang or panic.
async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, FactsError>>) -> Result<T, FactsError> {
    match timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(FactsError::Unavailable("the call panicked".to_owned())),
        Err(_) => Err(FactsError::TimedOut(limit)),
    }
}

/// Writes the facts that the guardrails let pass, the best with the highest priority.
fn prepare(known: Vec<KnownFact>, findings: &[Vec<Finding>], nonce: Option<&str>) -> TurnFacts {
    let mut facts = TurnFacts::default();
    let mut said = Vec::with_capacity(known.len());
    for (rank, (fact, findings)) in known.into_iter().zip(findings).enumerate() {
        let id = fact.id.to_string();
        let verdict = judge(ContentKind::RetrievedText, Value::from(fact.text.clone()), findings);
        if !matches!(verdict, Verdict::Allowed(_)) {
            facts.withheld.push(ContextItem {
                id: Some(id),
                ..ContextItem::new(ItemKind::Fact, 0, Omitted::Guardrail)
            });
            continue;
        }
        let priority = PRIORITY.saturating_sub(u8::try_from(rank).unwrap_or(u8::MAX));
        let text = fact_text(nonce, fact.said_at, &fact.text);
        let passage = Passage::count(PassageKind::Fact, id, text, priority, None);
        said.push((fact.said_at, fact.id, passage));
    }
    said.sort_by_key(|(said_at, id, _)| (*said_at, *id));
    facts.passages = said.into_iter().map(|(_, _, passage)| passage).collect();
    facts
}
