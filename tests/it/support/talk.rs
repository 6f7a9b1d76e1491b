//! Writes plausible conversations, record by record, without the actors.

use copilotd_actors::domain::content::{Finish, Input, Metadata};
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::event::{Channel, Event, Idempotency, Record};
use copilotd_actors::domain::ids::{ConversationId, MessageId, Seq, TurnId, UserId};
use copilotd_actors::domain::usage::{TotalUsage, Usage};
use copilotd_actors::ports::{Append, EventLog, LogError};
use copilotd_actors::tenancy::TenantScope;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use uuid::Uuid;

pub fn scope(tenant: &str) -> TenantScope {
    TenantScope::from_verified(tenant.parse().unwrap())
}

pub fn turn() -> TurnId {
    TurnId::new(Uuid::now_v7())
}

/// A conversation's state, as its only writer knows it.
#[derive(Clone, Debug)]
pub struct Talk {
    pub scope: TenantScope,
    pub id: ConversationId,
    pub user: UserId,
    pub channel: Channel,
    pub begun: Timestamp,
    pub header: Option<Header>,
    pub records: Vec<Record>,
}

impl Talk {
    pub fn new(tenant: &str, user: &str) -> Self {
        Self {
            scope: scope(tenant),
            id: ConversationId::new(Uuid::now_v7()),
            user: user.parse().unwrap(),
            channel: Channel::Api,
            begun: "2026-11-23T08:00:00.123456789Z".parse().unwrap(),
            header: None,
            records: Vec::new(),
        }
    }

    pub fn next(&self) -> Seq {
        self.header.as_ref().map_or(1, |header| header.last_seq + 1)
    }

    /// Returns the append that would add `events`.
    pub fn draft(&self, events: Vec<(Option<TurnId>, Event)>) -> Append {
        let mut header = self.header.clone();
        let records: Vec<Record> = (self.next()..)
            .zip(events)
            .map(|(seq, (turn, event))| Record {
                seq,
                at: self.begun + SignedDuration::from_millis(seq as i64 * 7),
                turn,
                event,
            })
            .collect();
        for record in &records {
            match &mut header {
                Some(header) => header.apply(record),
                None => header = Header::open(self.id, record),
            }
        }
        Append {
            conversation: self.id,
            user: self.user.clone(),
            append_id: Uuid::now_v7(),
            records: records.into(),
            header: header.expect("a conversation begins with its creation"),
        }
    }

    /// Records that an append was written.
    pub fn written(&mut self, append: &Append) {
        self.header = Some(append.header.clone());
        self.records.extend(append.records.iter().cloned());
    }

    pub async fn try_write(
        &mut self,
        log: &dyn EventLog,
        events: Vec<(Option<TurnId>, Event)>,
    ) -> Result<Append, LogError> {
        let append = self.draft(events);
        log.append(&self.scope, &append).await?;
        self.written(&append);
        Ok(append)
    }

    pub async fn write(&mut self, log: &dyn EventLog, events: Vec<(Option<TurnId>, Event)>) -> Append {
        self.try_write(log, events).await.unwrap()
    }

    /// Creates the conversation.
    pub async fn open(&mut self, log: &dyn EventLog) -> Append {
        let created = self.created();
        self.write(log, vec![created]).await
    }

    /// Writes a whole turn of four appends.
    pub async fn turn(&mut self, log: &dyn EventLog, prompt: &str) -> TurnId {
        let turn = turn();
        self.write(log, vec![queued(turn, prompt), started(turn)]).await;
        self.write(log, vec![assembled(turn)]).await;
        self.write(log, vec![answered(turn, &format!("you said: {prompt}"))])
            .await;
        self.write(log, vec![completed(turn)]).await;
        turn
    }

    pub fn created(&self) -> (Option<TurnId>, Event) {
        let created = Event::ConversationCreated {
            tenant: self.scope.tenant().clone(),
            user: self.user.clone(),
            copilot: "support".parse().unwrap(),
            channel: self.channel,
            title: Some("Help with invoices".to_owned()),
            metadata: metadata("case", "the-secret-case"),
            idempotency: Some(Idempotency {
                key: "key-1".to_owned(),
                body_hash: "ab".repeat(32),
            }),
        };
        (None, created)
    }
}

pub fn metadata(key: &str, value: &str) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert(key.to_owned(), json!(value));
    metadata
}

pub fn usage() -> Usage {
    Usage {
        prompt_tokens: 120,
        completion_tokens: 40,
        cached_tokens: 7,
        cost: 1_234,
        ..Usage::default()
    }
}

fn total() -> TotalUsage {
    let mut total = TotalUsage::default();
    total.add("small-1", usage());
    total
}

pub fn updated(title: &str) -> (Option<TurnId>, Event) {
    let event = Event::ConversationUpdated {
        title: Some(title.to_owned()),
        metadata: Some(metadata("title", title)),
    };
    (None, event)
}

pub fn erased() -> (Option<TurnId>, Event) {
    (None, Event::ConversationErased { by: "user".to_owned() })
}

pub fn queued(turn: TurnId, prompt: &str) -> (Option<TurnId>, Event) {
    let event = Event::TurnQueued {
        input: Input::Text(prompt.to_owned()),
        metadata: Metadata::new(),
        response_schema: None,
        idempotency: None,
        trace: None,
        api_key: None,
        roles: Vec::new(),
        nonce: None,
        next: false,
        replaces: None,
        client_tools: Vec::new(),
    };
    (Some(turn), event)
}

pub fn started(turn: TurnId) -> (Option<TurnId>, Event) {
    let model = "small-1".to_owned();
    (Some(turn), Event::TurnStarted { attempt: 1, model })
}

pub fn assembled(turn: TurnId) -> (Option<TurnId>, Event) {
    let event = Event::ContextAssembled {
        prompt_tokens: 120,
        summary_upto_seq: None,
        retrieved: Vec::new(),
        attempt: 1,
        step: 1,
        retrieval: None,
        context: None,
        sent: None,
    };
    (Some(turn), event)
}

pub fn answered(turn: TurnId, text: &str) -> (Option<TurnId>, Event) {
    let event = Event::MessageCompleted {
        message_id: MessageId::of_step(turn, 1, 1),
        text: text.to_owned(),
        citations: Vec::new(),
        unsupported: Vec::new(),
        tool_calls: Vec::new(),
        finish: Finish::Stop,
        structured: None,
        step: 1,
        model: "small-1".to_owned(),
        usage: usage(),
        first_token_ms: Some(12),
    };
    (Some(turn), event)
}

pub fn completed(turn: TurnId) -> (Option<TurnId>, Event) {
    let event = Event::TurnCompleted {
        usage: total(),
        first_token_ms: Some(12),
    };
    (Some(turn), event)
}

pub fn cancelled(turn: TurnId) -> (Option<TurnId>, Event) {
    (Some(turn), Event::TurnCancelled { usage: total() })
}
