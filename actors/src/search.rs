//! Search over a user's own conversations, by reading them.
//!
//! There is no index: what is found is what the log has at that moment, and an erased conversation is found no more, nor are
//! its words anywhere else. A search reads the newest conversations first and stops at its bounds; its position says where
//! to go on, also within a long conversation.
//!
//! Invariants: only conversations of the scope's tenant and of the user are read; a search that is continued until it has
//! no next position has looked at every message of theirs that existed when it began; each page makes progress.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::compute::{self, ComputeError};
use crate::domain::conversation::header::Header;
use crate::domain::event::{Event, Record};
use crate::domain::ids::{ConversationId, Seq, UserId};
use crate::domain::search_words::{COST_PER_BYTE, SearchWords};
use crate::ports::{EventLog, ListQuery, LogError, Order};
use crate::tenancy::TenantScope;

/// Conversations that are listed at a time.
const LISTED: usize = 32;
/// Messages that are read at a time.
const MESSAGES: usize = 32;
/// Bytes of messages that one job compares, unless a single message is longer: a few milliseconds.
const JOB_BYTES: usize = 128 * 1024;

/// What is searched for, and where the search goes on.
#[derive(Debug, Clone)]
pub struct SearchQuery {
    /// Whose conversations.
    pub user: UserId,
    /// What the title or one message must have.
    pub words: SearchWords,
    /// The position of the page before; none for the newest conversation.
    pub from: Option<SearchPosition>,
    /// Maximum number of conversations on the page.
    pub limit: usize,
}

/// How far a search came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchPosition {
    /// When the last conversation that was looked at was created.
    pub created_at: Timestamp,
    /// That conversation.
    pub conversation: ConversationId,
    /// Set if it was not read to its beginning: its messages before this record are still to be read.
    pub before: Option<Seq>,
}

/// How much one page of a search reads.
#[derive(Debug, Clone, Copy)]
pub struct SearchBounds {
    /// Conversations.
    pub conversations: usize,
    /// Bytes of messages.
    pub bytes: usize,
    /// Time, after which no further step begins.
    pub time: Duration,
}

impl Default for SearchBounds {
    fn default() -> Self {
        Self {
            conversations: 500,
            bytes: 8 * 1024 * 1024,
            time: Duration::from_secs(1),
        }
    }
}

/// A page of a search.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchPage {
    /// The conversations that were found, newest first.
    pub found: Vec<Header>,
    /// Where to go on; none if everything was searched.
    pub next: Option<SearchPosition>,
}

/// Why a search failed.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The store failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is too much to compute.
    #[error(transparent)]
    Compute(#[from] ComputeError),
}

/// What came of one conversation.
enum Outcome {
    Found,
    Absent,
    /// The bounds were reached before its beginning.
    Paused(Seq),
}

struct Search<'a> {
    log: &'a dyn EventLog,
    scope: &'a TenantScope,
    query: &'a SearchQuery,
    bounds: SearchBounds,
    ends_at: Instant,
    conversations: usize,
    bytes: usize,
}

/// Searches the user's conversations, newest first, within bounds.
///
/// # Errors
/// If the store fails or the compute pool is full. A conversation whose log is damaged is skipped.
pub async fn search(
    log: &dyn EventLog,
    scope: &TenantScope,
    query: &SearchQuery,
    bounds: SearchBounds,
) -> Result<SearchPage, SearchError> {
    let search = Search {
        log,
        scope,
        query,
        bounds,
        ends_at: Instant::now() + bounds.time,
        conversations: 0,
        bytes: 0,
    };
    search.run().await
}

impl Search<'_> {
    async fn run(mut self) -> Result<SearchPage, SearchError> {
        let mut found = Vec::new();
        let mut position = self.query.from;
        if let Some(SearchPosition {
            conversation,
            before: Some(before),
            created_at,
        }) = position
        {
            let header = self.log.header(self.scope, conversation).await?;
            if let Some(header) = header.filter(|header| header.user == self.query.user && !header.erased) {
                match self.look(&header, Some(before)).await? {
                    Outcome::Found => found.push(header),
                    Outcome::Absent => {}
                    Outcome::Paused(before) => {
                        return Ok(page(found, created_at, conversation, Some(before)));
                    }
                }
            }
        }
        loop {
            let listed = ListQuery {
                user: Some(self.query.user.clone()),
                before: position.map(|position| (position.created_at, position.conversation)),
                limit: LISTED,
                ..ListQuery::default()
            };
            let headers = self.log.list(self.scope, &listed).await?;
            let is_last = headers.len() < LISTED;
            let titled = self.titled(&headers).await?;
            for (header, is_titled) in headers.into_iter().zip(titled) {
                let (created_at, conversation) = (header.created_at, header.id);
                // Each page looks at something: otherwise one that takes too long would be asked for again for ever.
                let has_looked = self.conversations > 0 || position.is_some_and(|position| position.before.is_some());
                if let Some(done) =
                    position.filter(|_| has_looked && (found.len() >= self.query.limit || self.is_spent()))
                {
                    return Ok(page(found, done.created_at, done.conversation, None));
                }
                self.conversations += 1;
                let outcome = match is_titled {
                    true => Outcome::Found,
                    false => self.look(&header, None).await?,
                };
                match outcome {
                    Outcome::Found => found.push(header),
                    Outcome::Absent => {}
                    Outcome::Paused(before) => return Ok(page(found, created_at, conversation, Some(before))),
                }
                position = Some(SearchPosition {
                    created_at,
                    conversation,
                    before: None,
                });
            }
            if is_last {
                return Ok(SearchPage { found, next: None });
            }
        }
    }

    /// Returns of each conversation whether its title has the words.
    async fn titled(&self, headers: &[Header]) -> Result<Vec<bool>, SearchError> {
        let titles: Vec<Option<String>> = headers.iter().map(|header| header.title.clone()).collect();
        let bytes: usize = titles.iter().flatten().map(String::len).sum();
        let words = self.query.words.clone();
        let look = move || -> Vec<bool> {
            let has = |title: &Option<String>| title.as_ref().is_some_and(|title| words.are_in(title));
            titles.iter().map(has).collect()
        };
        Ok(compute::run(Some(self.scope.tenant()), bytes * COST_PER_BYTE, look).await?)
    }

    /// Returns whether one of these messages has the words: in several jobs, because one cannot be interrupted.
    async fn is_in_one(&self, mut records: Vec<Record>) -> Result<bool, SearchError> {
        while !records.is_empty() {
            let mut bytes = 0;
            let fits = |record: &&Record| {
                let is_first = bytes == 0;
                bytes += record.weight();
                is_first || bytes <= JOB_BYTES
            };
            let count = records.iter().take_while(fits).count();
            let rest = records.split_off(count);
            let job = std::mem::replace(&mut records, rest);
            let cost = job.iter().map(Record::weight).sum::<usize>() * COST_PER_BYTE;
            let words = self.query.words.clone();
            let look = move || job.iter().any(|record| is_in(&words, record));
            if compute::run(Some(self.scope.tenant()), cost, look).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_spent(&self) -> bool {
        let bounds = self.bounds;
        self.conversations >= bounds.conversations || self.bytes >= bounds.bytes || Instant::now() >= self.ends_at
    }

    /// Looks at the messages of a conversation, the newest first, at least at some.
    async fn look(&mut self, header: &Header, mut before: Option<Seq>) -> Result<Outcome, SearchError> {
        loop {
            let read = self
                .log
                .read_messages(self.scope, header.id, before, Order::Desc, MESSAGES);
            let records = match read.await {
                Ok(records) => records,
                Err(LogError::Corrupt(reason)) => {
                    tracing::warn!(tenant = %self.scope.tenant(), conversation = %header.id, reason, "a conversation's messages cannot be read; searching without it");
                    return Ok(Outcome::Absent);
                }
                Err(error) => return Err(error.into()),
            };
            let is_last = records.len() < MESSAGES;
            before = records.last().map(|last| last.seq);
            self.bytes += records.iter().map(Record::weight).sum::<usize>();
            match before {
                _ if self.is_in_one(records).await? => return Ok(Outcome::Found),
                Some(before) if !is_last && self.is_spent() => return Ok(Outcome::Paused(before)),
                Some(_) if !is_last => {}
                _ => return Ok(Outcome::Absent),
            }
        }
    }
}

fn page(found: Vec<Header>, created_at: Timestamp, conversation: ConversationId, before: Option<Seq>) -> SearchPage {
    let next = SearchPosition {
        created_at,
        conversation,
        before,
    };
    SearchPage {
        found,
        next: Some(next),
    }
}

/// Returns whether a prompt or an answer has the words.
fn is_in(words: &SearchWords, record: &Record) -> bool {
    match &record.event {
        Event::TurnQueued { input, .. } => words.are_in(&input.text()),
        Event::MessageCompleted { text, .. } => words.are_in(text),
        _ => false,
    }
}
