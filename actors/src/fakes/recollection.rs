//! Earlier messages found by shared words, and the contract of the port.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use crate::domain::content::Finish;
use crate::domain::context::recalled::{SaidMessage, Speaker, Transcript, line};
use crate::domain::context::tokens;
use crate::domain::context_record::RetrievalStep;
use crate::domain::conversation::header::Header;
use crate::domain::event::{Channel, Event, FailureCode, Record};
use crate::domain::ids::{ConversationId, CopilotName, MessageId, Seq, TenantId, TurnId, UserId};
use crate::domain::usage::{TotalUsage, Usage};
use crate::ports::{Append, EventLog, RecallError, RecallQuery, RecallReason, Recalled, RecalledMessage, Recollection};
use crate::tenancy::TenantScope;

/// Searches a log by the number of words that messages share with the question. Clones share everything.
#[derive(Clone)]
pub struct FakeRecollection(Arc<Inner>);

struct Inner {
    log: Arc<dyn EventLog>,
    scripts: Mutex<VecDeque<Script>>,
    queries: Mutex<Vec<RecallQuery>>,
    prepared: Mutex<Vec<(ConversationId, Seq)>>,
    erased: Mutex<BTreeSet<(TenantId, ConversationId)>>,
    begun: watch::Sender<usize>,
}

impl std::fmt::Debug for FakeRecollection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeRecollection").finish_non_exhaustive()
    }
}

/// What one call does instead of its work.
#[derive(Debug, Clone)]
pub enum Script {
    /// It fails.
    Fail(RecallError),
    /// It never ends by itself.
    Hang,
    /// It panics.
    Panic,
}

impl FakeRecollection {
    /// Creates one that searches a log.
    pub fn new(log: Arc<dyn EventLog>) -> Self {
        Self(Arc::new(Inner {
            log,
            scripts: Mutex::default(),
            queries: Mutex::default(),
            prepared: Mutex::default(),
            erased: Mutex::default(),
            begun: watch::Sender::new(0),
        }))
    }

    /// Uses `script` for the next search that has none yet.
    pub fn script(&self, script: Script) {
        self.0.scripts.lock().push_back(script);
    }

    /// Returns all queries, in order.
    pub fn queries(&self) -> Vec<RecallQuery> {
        self.0.queries.lock().clone()
    }

    /// Returns what was to be prepared, in order.
    pub fn prepared(&self) -> Vec<(ConversationId, Seq)> {
        self.0.prepared.lock().clone()
    }

    /// Returns the conversations that were erased.
    pub fn erased(&self) -> BTreeSet<(TenantId, ConversationId)> {
        self.0.erased.lock().clone()
    }

    /// Waits until `count` searches were started.
    pub async fn wait_for(&self, count: usize) {
        // The sender lives in `self`.
        let _ = self.0.begun.subscribe().wait_for(|begun| *begun >= count).await;
    }

    async fn said(&self, scope: &TenantScope, query: &RecallQuery) -> Result<Vec<SaidMessage>, RecallError> {
        let failed = |error: crate::ports::LogError| RecallError::Unavailable(error.to_string());
        let (mut transcript, mut said, mut after) = (Transcript::default(), Vec::new(), 0);
        loop {
            let records = self.0.log.read(scope, query.conversation, after, 256).await;
            let records = records.map_err(failed)?;
            let Some(last) = records.last() else { return Ok(said) };
            after = last.seq;
            for record in records.into_iter().filter(|record| record.seq <= query.upto_seq) {
                if let Event::TurnReplaced { .. } = record.event {
                    said.retain(|message: &SaidMessage| Some(message.turn) != record.turn);
                }
                said.extend(transcript.take(record));
            }
        }
    }
}

fn words(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

#[async_trait]
impl Recollection for FakeRecollection {
    async fn recall(&self, scope: &TenantScope, query: &RecallQuery) -> Result<Recalled, RecallError> {
        self.0.queries.lock().push(query.clone());
        self.0.begun.send_modify(|begun| *begun += 1);
        let script = self.0.scripts.lock().pop_front();
        match script {
            Some(Script::Fail(error)) => return Err(error),
            Some(Script::Hang) => std::future::pending().await,
            Some(Script::Panic) => panic!("the test wants the search to panic"),
            None => {}
        }
        let mut recalled = Recalled {
            is_complete: true,
            steps: vec![(RetrievalStep::Search, std::time::Duration::from_millis(1))],
            ..Recalled::default()
        };
        let key = (scope.tenant().clone(), query.conversation);
        if self.0.erased.lock().contains(&key) {
            return Ok(recalled);
        }
        let asked = words(&query.question);
        let said = self.said(scope, query).await?;
        let mut found: Vec<(usize, SaidMessage)> = said
            .into_iter()
            .filter(|said| said.said_seq <= query.before)
            .map(|said| (words(&said.text).intersection(&asked).count(), said))
            .filter(|(shared, _)| *shared > 0)
            .collect();
        found.sort_by_key(|(shared, said)| (std::cmp::Reverse(*shared), said.said_seq));
        let (mut left, mut chosen) = (query.budget_tokens, Vec::new());
        for (shared, said) in found {
            let tokens = tokens::count(&line(said.speaker, said.at, &said.text)) + 1;
            if tokens > left || chosen.len() >= query.limit {
                recalled.omitted += 1;
                continue;
            }
            left -= tokens;
            chosen.push((shared, said, tokens));
        }
        chosen.sort_by_key(|(_, said, _)| said.said_seq);
        let message = |(shared, said, tokens): (usize, SaidMessage, u64)| RecalledMessage {
            seq: said.seq,
            speaker: said.speaker,
            at: said.at,
            text: said.text,
            tokens,
            score: f64::from(u32::try_from(shared).unwrap_or(u32::MAX)),
            reason: RecallReason::Relevant,
        };
        recalled.messages = chosen.into_iter().map(message).collect();
        Ok(recalled)
    }

    fn prepare(&self, _: &TenantScope, conversation: ConversationId, upto_seq: Seq) {
        self.0.prepared.lock().push((conversation, upto_seq));
    }

    async fn erase(&self, scope: &TenantScope, conversation: ConversationId) -> Result<u64, RecallError> {
        let key = (scope.tenant().clone(), conversation);
        Ok(u64::from(self.0.erased.lock().insert(key)))
    }

    async fn erase_tenant(&self, _: &TenantScope) -> Result<u64, RecallError> {
        Ok(0)
    }
}

/// Writes a conversation into a log, as turns write it.
pub struct Scribe {
    log: Arc<dyn EventLog>,
    scope: TenantScope,
    header: Header,
    turns: u128,
}

impl Scribe {
    /// Begins a conversation.
    ///
    /// # Panics
    /// If the log does not accept it.
    pub async fn begin(log: Arc<dyn EventLog>, scope: &TenantScope, id: ConversationId) -> Self {
        let user: UserId = "ada".parse().expect("a user");
        let created = Record {
            seq: 1,
            at: jiff::Timestamp::UNIX_EPOCH,
            turn: None,
            event: Event::ConversationCreated {
                tenant: scope.tenant().clone(),
                user,
                copilot: CopilotName::unnamed(),
                channel: Channel::Api,
                title: None,
                metadata: serde_json::Map::new(),
                idempotency: None,
            },
        };
        let header = Header::open(id, &created).expect("a log begins like this");
        let scribe = Self {
            log,
            scope: scope.clone(),
            header,
            turns: 0,
        };
        scribe.append(vec![created]).await;
        scribe
    }

    /// Returns the last record.
    pub fn last_seq(&self) -> Seq {
        self.header.last_seq
    }

    /// Adds a turn that was answered. Returns the records of prompt and answer, and of the end.
    ///
    /// # Panics
    /// If the log does not accept it.
    pub async fn exchange(&mut self, prompt: &str, answer: &str) -> [Seq; 3] {
        let turn = self.next_turn();
        let completed = Event::MessageCompleted {
            message_id: MessageId::of_input(turn),
            text: answer.to_owned(),
            citations: Vec::new(),
            unsupported: Vec::new(),
            tool_calls: Vec::new(),
            finish: Finish::Stop,
            structured: None,
            step: 1,
            model: "m".to_owned(),
            usage: Usage::default(),
            first_token_ms: None,
        };
        let usage = TotalUsage::default();
        let ended = Event::TurnCompleted {
            usage,
            first_token_ms: None,
        };
        let first = self.add(turn, vec![queued(prompt), started(), completed, ended]).await;
        [first, first + 2, first + 3]
    }

    /// Adds a turn whose prompt a guardrail blocked. Returns the record of its end.
    ///
    /// # Panics
    /// If the log does not accept it.
    pub async fn blocked(&mut self, prompt: &str) -> Seq {
        let turn = self.next_turn();
        let failed = Event::TurnFailed {
            code: FailureCode::GuardrailBlocked,
            message: "blocked".to_owned(),
            retryable: false,
            usage: TotalUsage::default(),
        };
        self.add(turn, vec![queued(prompt), failed]).await + 1
    }

    /// Adds a prompt whose turn has started and is not answered yet.
    ///
    /// # Panics
    /// If the log does not accept it.
    pub async fn ask(&mut self, prompt: &str) -> Seq {
        let turn = self.next_turn();
        self.add(turn, vec![queued(prompt), started()]).await
    }

    fn next_turn(&mut self) -> TurnId {
        self.turns += 1;
        TurnId::new(Uuid::from_u128((self.header.id.uuid().as_u128() << 32) | self.turns))
    }

    async fn add(&mut self, turn: TurnId, events: Vec<Event>) -> Seq {
        let first = self.header.last_seq + 1;
        let at = |seq: Seq| jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(seq.cast_signed());
        let record = |(seq, event)| Record {
            seq,
            at: at(seq),
            turn: Some(turn),
            event,
        };
        let records: Vec<Record> = (first..).zip(events).map(record).collect();
        records.iter().for_each(|record| self.header.apply(record));
        self.append(records).await;
        first
    }

    async fn append(&self, records: Vec<Record>) {
        let append = Append {
            conversation: self.header.id,
            user: self.header.user.clone(),
            append_id: Uuid::from_u128(u128::from(self.header.last_seq)),
            records: records.into(),
            header: self.header.clone(),
        };
        let appended = self.log.append(&self.scope, &append).await;
        appended.expect("the log accepts it");
    }
}

fn queued(prompt: &str) -> Event {
    Event::TurnQueued {
        input: crate::domain::content::Input::Text(prompt.to_owned()),
        metadata: serde_json::Map::new(),
        response_schema: None,
        idempotency: None,
        trace: None,
        api_key: None,
        roles: Vec::new(),
        nonce: None,
        next: false,
        replaces: None,
        client_tools: Vec::new(),
    }
}

fn started() -> Event {
    Event::TurnStarted {
        attempt: 1,
        model: "m".to_owned(),
    }
}

/// Checks that an implementation, which reads `log`, keeps the port's contract. The log is empty.
///
/// # Panics
/// If it does not.
pub async fn contract(
    recollection: &dyn Recollection,
    log: Arc<dyn EventLog>,
    scope: &TenantScope,
    other: &TenantScope,
) {
    let id = ConversationId::new(Uuid::from_u128(7));
    let mut scribe = Scribe::begin(Arc::clone(&log), scope, id).await;
    let mut theirs = Scribe::begin(Arc::clone(&log), other, id).await;
    let mut second = Scribe::begin(Arc::clone(&log), scope, ConversationId::new(Uuid::from_u128(8))).await;
    theirs.exchange("The harbour of Globex opens at nine.", "Noted.").await;
    second
        .exchange("The harbour of another talk opens at ten.", "Noted.")
        .await;
    let [asked, told, _] = scribe
        .exchange(
            "When does the harbour office open?",
            "The harbour office opens at eight.",
        )
        .await;
    scribe.blocked("The harbour is a secret.").await;
    let [_, greeted, end] = scribe.exchange("Good morning", "Good morning to you").await;
    let [_, _, last] = scribe.exchange("I like the harbour.", "The harbour is nice.").await;
    scribe.ask("And when does the harbour close?").await;
    let query = RecallQuery {
        conversation: id,
        question: "When does the harbour office open?".to_owned(),
        before: end,
        upto_seq: last,
        budget_tokens: 1_000,
        limit: 10,
    };
    let recall = async |scope: &TenantScope, query: &RecallQuery| {
        let recalled = recollection.recall(scope, query).await;
        recalled.expect("the conversation can be searched")
    };
    let seqs = |recalled: &Recalled| -> Vec<Seq> { recalled.messages.iter().map(|message| message.seq).collect() };

    // What was said, verbatim, oldest first; neither what was blocked nor what is in the prompt already.
    let found = recall(scope, &query).await;
    assert!(found.is_complete);
    let found_seqs = seqs(&found);
    assert!(found_seqs.starts_with(&[asked, told]), "{found_seqs:?}");
    assert!(found_seqs.iter().all(|seq| *seq <= greeted), "{found_seqs:?}");
    assert!(found_seqs.is_sorted());
    let first = &found.messages[0];
    assert_eq!(
        (first.text.as_str(), first.speaker),
        (query.question.as_str(), Speaker::User)
    );
    let second_message = &found.messages[1];
    assert_eq!(
        (second_message.text.as_str(), second_message.speaker),
        ("The harbour office opens at eight.", Speaker::Assistant)
    );
    assert!(found.messages.iter().all(|message| message.score.is_finite()));
    assert_eq!(recall(scope, &query).await.messages, found.messages, "again the same");

    // More when the prompt has less.
    let all = RecallQuery {
        before: last,
        ..query.clone()
    };
    assert!(recall(scope, &all).await.messages.len() > found.messages.len());

    // Within the budget and the limit, and the best of it.
    let mut fewest = usize::MAX;
    for budget_tokens in [0, 5, 20, 40, 1_000] {
        let query = RecallQuery {
            budget_tokens,
            ..all.clone()
        };
        let found = recall(scope, &query).await;
        let tokens: u64 = found.messages.iter().map(|message| message.tokens).sum();
        assert!(tokens <= budget_tokens);
        fewest = fewest.min(found.messages.len());
    }
    assert_eq!(fewest, 0);
    let one = RecallQuery {
        limit: 1,
        ..all.clone()
    };
    let found = recall(scope, &one).await;
    assert_eq!(found.messages.len(), 1);
    assert!(found.omitted > 0);

    // Nothing of another tenant, of another conversation, of none.
    let theirs = RecallQuery {
        before: theirs.last_seq(),
        upto_seq: theirs.last_seq(),
        ..query.clone()
    };
    let found = recall(other, &theirs).await;
    assert!(
        found
            .messages
            .iter()
            .all(|message| message.text.contains("Globex") || message.text == "Noted.")
    );
    assert!(!found.messages.is_empty());
    let unknown = RecallQuery {
        conversation: ConversationId::new(Uuid::from_u128(9)),
        ..query.clone()
    };
    assert!(recall(scope, &unknown).await.messages.is_empty());
    for question in ["", " ?! "] {
        let blank = RecallQuery {
            question: question.to_owned(),
            ..query.clone()
        };
        assert!(recall(scope, &blank).await.messages.is_empty());
    }

    // A dropped call leaves nothing behind.
    {
        let mut dropped = std::pin::pin!(recollection.recall(scope, &query));
        let _ = futures::poll!(&mut dropped);
    }
    recollection.prepare(scope, id, last);
    assert_eq!(seqs(&recall(scope, &query).await), found_seqs);

    // Erasing is of one conversation of one tenant, and can be repeated.
    for _ in 0..2 {
        recollection.erase(scope, id).await.expect("it can be erased");
    }
    assert!(!recall(other, &theirs).await.messages.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::log::MemoryLog;

    #[tokio::test]
    async fn the_fake_keeps_the_contract() {
        #[expect(clippy::disallowed_methods, reason = "tests open scopes")]
        let scope = |tenant: &str| TenantScope::from_verified(tenant.parse().unwrap());
        let (acme, globex) = (scope("acme"), scope("globex"));
        let log: Arc<dyn EventLog> = Arc::new(MemoryLog::new());
        let recollection = FakeRecollection::new(Arc::clone(&log));
        contract(&recollection, log, &acme, &globex).await;
        assert_eq!(recollection.erased().len(), 1);
    }
}
