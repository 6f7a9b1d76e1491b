//! `FactMemory`: what is remembered about users. Learns in the background, tells turns what is known, and lets people see,
//! correct and delete it.
//!
//! Invariants: one turn is learned from once ([`FactStore`] closes its lesson with its facts); changes of one user's facts follow
//! each other (`changes`), so that none is decided on facts that are no longer there; a failing, lying, looping or silent
//! model costs its call and nothing else.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::compute;
use copilotd_actors::domain::event::Event;
use copilotd_actors::domain::ids::{FactId, UserId};
use copilotd_actors::ports::{
    EventLog, Facts, FactsError, FactsQuery, KnownFact, KnownFacts, LearnRequest, LogError, Model, ModelEvent,
    ModelRequest, WithdrawnTurn,
};
use copilotd_actors::tenancy::TenantScope;
use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use metrics::counter;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;
use tracing::Instrument as _;

use super::MAX_FACT_BYTES;
use super::book::{Admission, Attribute, Fact, admit};
use super::outcome::learned;
use super::proposals::{self, MAX_ANSWER_BYTES, MAX_ANSWER_TOKENS, MAX_MESSAGE_BYTES};
use super::queue::{NoPlace, Place, Queue};
use super::store::{Change, FactStore, Lesson, LessonState, StoredFact};
use crate::lexical::terms;

/// How long a turn waits for what is being learned from the user's other turns.
const WAIT: Duration = Duration::from_millis(1_500);
/// Time limit of one model call.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Lessons of earlier turns that are done with a later one.
const CAUGHT_UP: usize = 4;
/// Bytes of a question of which facts are compared.
const MAX_QUESTION: usize = 4 * 1024;
/// Cost of checking an answer, in the unit of [`compute`]: each word of a fact is stemmed beside each of its passage.
const CHECK_COST: usize = 64 * 1024;
/// Locks of users' facts; two users share one now and then.
const LOCKS: usize = 64;

/// What is remembered about users; clones share everything. See the module.
#[derive(Clone)]
pub struct FactMemory(Arc<Inner>);

struct Inner {
    store: Arc<dyn FactStore>,
    log: Arc<dyn EventLog>,
    model: Arc<dyn Model>,
    queue: Arc<Queue>,
    changes: Vec<Mutex<()>>,
}

/// Why a fact was not corrected.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The user has no such fact.
    #[error("the user has no such fact")]
    Missing,
    /// The text is no fact.
    #[error("must be one line of 1 to {MAX_FACT_BYTES} bytes")]
    Malformed,
    /// The fact had ended, and the user has as many valid facts as are kept.
    #[error("the user has as many facts as are kept; delete one first")]
    Full,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] LogError),
}

impl std::fmt::Debug for FactMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FactMemory").finish_non_exhaustive()
    }
}

impl FactMemory {
    /// Creates the memory on its store. `log` holds the messages of turns that are learned from later; `model` reads messages.
    pub fn new(store: Arc<dyn FactStore>, log: Arc<dyn EventLog>, model: Arc<dyn Model>) -> Self {
        Self(Arc::new(Inner {
            store,
            log,
            model,
            queue: Arc::default(),
            changes: (0..LOCKS).map(|_| Mutex::default()).collect(),
        }))
    }

    /// Returns all facts of a user, the one said last first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn list(&self, scope: &TenantScope, user: &UserId) -> Result<Vec<StoredFact>, LogError> {
        self.0.store.facts(scope, user).await
    }

    /// Replaces the text of a fact. From `now` on it is what the user says: it is valid, and what contradicts it ends.
    ///
    /// # Errors
    /// See [`EditError`].
    pub async fn correct(
        &self,
        scope: &TenantScope,
        user: &UserId,
        id: FactId,
        text: &str,
        now: Timestamp,
    ) -> Result<StoredFact, EditError> {
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_FACT_BYTES || text.chars().any(char::is_control) {
            return Err(EditError::Malformed);
        }
        let _turn = self.0.lock(scope, user).await;
        let mut facts = self.0.store.facts(scope, user).await?;
        let place = facts.iter().position(|fact| fact.id == id).ok_or(EditError::Missing)?;
        let mut corrected = facts.swap_remove(place);
        let attribute = Attribute::of(text);
        // Not before what it corrects, even if the clock was set back.
        let now = whole_ms(now).max(corrected.fact.said_at);
        let others: Vec<Fact> = facts.iter().map(|fact| fact.fact.clone()).collect();
        let ended = match admit(&others, text, attribute, Timestamp::MAX) {
            Admission::New { supersedes, .. } => supersedes,
            // One of two facts that say the same is enough.
            Admission::Known(same) => vec![same],
            Admission::Full => return Err(EditError::Full),
        };
        corrected.fact = Fact {
            text: text.to_owned(),
            attribute,
            valid_from: now,
            said_at: now,
            valid_to: None,
        };
        corrected.is_corrected = true;
        let mut put: Vec<StoredFact> = ended.into_iter().map(|index| facts[index].clone()).collect();
        put.iter_mut()
            .for_each(|fact| fact.fact.valid_to = Some(now.max(fact.fact.said_at)));
        put.push(corrected.clone());
        let change = Change {
            put,
            delete: Vec::new(),
        };
        self.0.store.change(scope, user, &change).await?;
        counter!("copilotd_facts_total", "outcome" => "corrected").increment(1);
        Ok(corrected)
    }

    /// Deletes a fact. It does not come back from the turn on which it rests. Returns whether there was one.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn forget(&self, scope: &TenantScope, user: &UserId, id: FactId) -> Result<bool, LogError> {
        let _turn = self.0.lock(scope, user).await;
        let facts = self.0.store.facts(scope, user).await?;
        if facts.iter().all(|fact| fact.id != id) {
            return Ok(false);
        }
        let change = Change {
            put: Vec::new(),
            delete: vec![id],
        };
        self.0.store.change(scope, user, &change).await?;
        counter!("copilotd_facts_total", "outcome" => "deleted").increment(1);
        Ok(true)
    }

    /// Starts a lesson, unless it waits or runs already, or too many do. `message` is read from the log if it is not given.
    fn start(&self, scope: &TenantScope, lesson: Lesson, message: Option<String>, account: LearnRequest) {
        let place = match self.0.queue.enter(scope.tenant(), &lesson.user, lesson.turn) {
            Ok(place) => place,
            Err(NoPlace::Taken) => return,
            Err(NoPlace::Full) => {
                counter!("copilotd_fact_lessons_total", "outcome" => "postponed").increment(1);
                tracing::warn!(tenant = %scope.tenant(), turn = %lesson.turn, "too many messages wait to be learned from; this one is learned from with a later turn of its user");
                return;
            }
        };
        let (inner, scope) = (Arc::clone(&self.0), scope.clone());
        let task = async move {
            let taught = AssertUnwindSafe(inner.teach(&scope, &lesson, message, account, &place))
                .catch_unwind()
                .await;
            let outcome = match taught {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => {
                    tracing::warn!(tenant = %scope.tenant(), turn = %lesson.turn, %error, "facts of a turn could not be stored; trying again with a later turn of its user");
                    "store_failed"
                }
                Err(_) => "failed",
            };
            counter!("copilotd_fact_lessons_total", "outcome" => outcome).increment(1);
        };
        tokio::spawn(task.in_current_span());
    }
}

#[async_trait]
impl Facts for FactMemory {
    async fn known(&self, scope: &TenantScope, query: &FactsQuery) -> Result<KnownFacts, FactsError> {
        let settled = self.0.queue.settled(scope.tenant(), &query.user, query.turn);
        let is_late = timeout(WAIT, settled).await.is_err();
        let facts = self.0.store.facts(scope, &query.user).await;
        let mut facts = facts.map_err(|error| FactsError::Unavailable(error.to_string()))?;
        facts.retain(StoredFact::is_valid);
        rank(&mut facts, &query.text);
        facts.truncate(query.limit);
        let facts = facts.into_iter().map(|fact| KnownFact {
            id: fact.id,
            text: fact.fact.text,
            said_at: fact.fact.said_at,
        });
        Ok(KnownFacts {
            facts: facts.collect(),
            is_late,
        })
    }

    async fn learn(&self, scope: &TenantScope, request: LearnRequest) -> Result<(), FactsError> {
        let unavailable = |error: LogError| FactsError::Unavailable(error.to_string());
        let lesson = Lesson {
            user: request.user.clone(),
            conversation: request.conversation,
            turn: request.turn,
            said_at: whole_ms(request.said_at),
        };
        if request.message.trim().is_empty() || request.message.len() > MAX_MESSAGE_BYTES {
            counter!("copilotd_fact_lessons_total", "outcome" => "skipped").increment(1);
        } else if self.0.store.open_lesson(scope, &lesson).await.map_err(unavailable)? == LessonState::Open {
            self.start(scope, lesson, Some(request.message.clone()), request.clone());
        }
        let open = self.0.store.open_lessons(scope, &request.user, CAUGHT_UP).await;
        for lesson in open.map_err(unavailable)? {
            if lesson.turn != request.turn {
                self.start(scope, lesson, None, request.clone());
            }
        }
        Ok(())
    }

    async fn withdraw(&self, scope: &TenantScope, turn: &WithdrawnTurn) -> Result<(), FactsError> {
        let lesson = Lesson {
            user: turn.user.clone(),
            conversation: turn.conversation,
            turn: turn.turn,
            // Of a lesson that is closed it is not read.
            said_at: Timestamp::UNIX_EPOCH,
        };
        // Not while facts are decided on that would be gone when they are stored.
        let _turn = self.0.lock(scope, &turn.user).await;
        let withdrawn = self.0.store.withdraw(scope, &lesson).await;
        withdrawn.map_err(|error| FactsError::Unavailable(error.to_string()))
    }
}

impl Inner {
    async fn lock(&self, scope: &TenantScope, user: &UserId) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        (scope.tenant(), user).hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or(0);
        self.changes[place].lock().await
    }

    /// Learns from a turn. Returns the outcome for the metrics.
    async fn teach(
        &self,
        scope: &TenantScope,
        lesson: &Lesson,
        message: Option<String>,
        account: LearnRequest,
        place: &Place,
    ) -> Result<&'static str, LogError> {
        let Some(message) = self.message(scope, lesson, message).await? else {
            self.store.close_lesson(scope, lesson, &Change::default()).await?;
            return Ok("skipped");
        };
        let Some(_permits) = place.call().await else {
            return Ok("failed");
        };
        let asked = AssertUnwindSafe(self.ask(scope, lesson, &message, account)).catch_unwind();
        let answer = timeout(CALL_TIMEOUT, asked).await.unwrap_or(Ok(None)).unwrap_or(None);
        let Some(proposed) = answer.and_then(|answer| proposals::read(&answer, &message)) else {
            let is_closed = self.store.fail_lesson(scope, lesson).await?;
            return Ok(if is_closed { "given_up" } else { "failed" });
        };
        let _turn = self.lock(scope, &lesson.user).await;
        let known = self.store.facts(scope, &lesson.user).await?;
        let own = lesson.clone();
        // Mostly there is nothing to check.
        let cost = proposed.proposed.len() * CHECK_COST;
        let learn = move || learned(&known, &own, &message, &proposed);
        let learned = compute::run(Some(scope.tenant()), cost, learn).await;
        let learned = learned.map_err(|error| LogError::Unavailable(error.to_string()))?;
        if !self.store.close_lesson(scope, lesson, &learned.change).await? {
            return Ok("closed_before");
        }
        for outcome in learned.outcomes {
            counter!("copilotd_facts_total", "outcome" => outcome).increment(1);
        }
        Ok("completed")
    }

    /// Returns the message of a turn as the log holds it; none if it is gone or too long.
    async fn message(
        &self,
        scope: &TenantScope,
        lesson: &Lesson,
        given: Option<String>,
    ) -> Result<Option<String>, LogError> {
        if given.is_some() {
            return Ok(given);
        }
        let Some(found) = self.log.read_turn(scope, lesson.turn).await? else {
            return Ok(None);
        };
        if found.user != lesson.user {
            return Ok(None);
        }
        let input = found.records.into_iter().find_map(|record| match record.event {
            Event::TurnQueued { input, .. } => Some(input.text()),
            _ => None,
        });
        Ok(input.filter(|text| text.len() <= MAX_MESSAGE_BYTES))
    }

    /// Asks the small model; none without a complete answer.
    async fn ask(&self, scope: &TenantScope, lesson: &Lesson, message: &str, account: LearnRequest) -> Option<String> {
        let request = ModelRequest {
            scope: scope.clone(),
            route: account.route,
            conversation: lesson.conversation,
            // As for a summary: the call is the tenant's, and no step of the turn.
            turn: None,
            user: lesson.user.clone(),
            api_key: account.api_key,
            copilot: account.copilot,
            messages: Arc::new(proposals::messages(message)),
            tools: Arc::default(),
            response_schema: Some(proposals::schema()),
            max_tokens: Some(MAX_ANSWER_TOKENS),
        };
        let mut stream = self.model.stream(request).await.ok()?;
        let (mut answer, mut is_finished) = (String::new(), false);
        while let Some(event) = stream.next().await {
            match event.ok()? {
                ModelEvent::Text(piece) => answer.push_str(&piece),
                ModelEvent::Finished(_) => is_finished = true,
                ModelEvent::Model(_)
                | ModelEvent::Usage(_)
                | ModelEvent::ToolCall { .. }
                | ModelEvent::Fallback { .. } => {}
            }
            if answer.len() > MAX_ANSWER_BYTES {
                return None;
            }
        }
        is_finished.then_some(answer)
    }
}

/// Returns a time as the stores keep it: two reads of it must be equal.
fn whole_ms(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

/// Orders facts by the number of words that they share with the question, then by when they were said, the last one first.
fn rank(facts: &mut [StoredFact], question: &str) {
    let question = &question[..question.floor_char_boundary(MAX_QUESTION)];
    let asked: HashSet<String> = terms(question).into_iter().map(|(term, _)| term).collect();
    let shared = |fact: &StoredFact| {
        let own = terms(&fact.fact.text);
        own.iter().filter(|(term, _)| asked.contains(term)).count()
    };
    facts.sort_by_cached_key(|fact| {
        use std::cmp::Reverse;
        (Reverse(shared(fact)), Reverse(fact.fact.said_at), fact.id)
    });
}

#[cfg(test)]
mod tests;
