//! Finds earlier messages of conversations: the port [`Recollection`] over the log, an embedding model and stored vectors.
//!
//! # What happens when
//!
//! A search needs the conversation in memory (`remembered`), in a cache that is bounded in bytes and drops what is idle. What
//! is missing is read from the log in pages, with the vectors that are stored. One search reads at most
//! [`Bounds::pages`]; the rest is read in the background, and the search says that it saw only the older part.
//!
//! Vectors are made once, in the background and after the documents of ingestion, when a turn has ended; they are stored
//! through [`TurnVectors`]. What the newest messages still lack is embedded within the search, up to [`Bounds::newest`].
//! Without a model, or when it does not answer in time, words decide alone.
//!
//! # Invariants
//!
//! Everything here can be lost: the log is the record. Work in the background is done in small pieces, one conversation
//! after the other, so that a long one delays the others by one piece. What waits is bounded. Once a conversation is
//! erased nothing of it is stored again: the store refuses it, whatever was under way.

mod cache;
mod remembered;
mod waiting;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::compute;
use copilotd_actors::domain::context::tokens;
use copilotd_actors::domain::context_record::RetrievalStep;
use copilotd_actors::domain::event::Record;
use copilotd_actors::domain::ids::{ConversationId, Seq, TenantId};
use copilotd_actors::ports::{
    EmbedRequest, EventLog, LogError, Purpose, RecallError, RecallQuery, Recalled, Recollection, Urgency, Vector,
};
use copilotd_actors::tenancy::TenantScope;
use metrics::counter;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use self::cache::{Cache, Key, Shared};
use self::remembered::Unembedded;
use self::waiting::Waiting;
use crate::ingest::Engine;
use crate::turn_vectors::{TurnVector, TurnVectors};

/// Cost of stemming a byte, in the unit of [`compute`].
const TERMS_COST_PER_BYTE: usize = 8;
/// Cost of searching a message: the products of its vectors with the question's.
const SEARCH_COST_PER_MESSAGE: usize = 128;
/// Messages that are embedded in one request in the background: two texts each.
const EMBEDDED_AT_ONCE: usize = 8;
/// Longest time that a search waits for vectors; it may wait twice, and must have an answer within a second.
const EMBED_TIMEOUT: Duration = Duration::from_millis(300);
/// Longest time that a piece of work in the background takes.
const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(60);

/// How much is kept, read and embedded.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of the conversations in memory.
    pub cache_bytes: usize,
    /// Time without use after which a conversation is dropped from memory.
    pub idle: Duration,
    /// Records of a page of the log.
    pub page: usize,
    /// Pages that one search reads.
    pub pages: usize,
    /// Conversations that wait to be read or embedded in the background.
    pub waiting: usize,
    /// Newest messages that a search embeds if they have no vectors.
    pub newest: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            cache_bytes: 128 * 1024 * 1024,
            idle: Duration::from_secs(15 * 60),
            page: 256,
            pages: 8,
            waiting: 4_096,
            newest: 2,
        }
    }
}

/// What a [`Recollector`] works with.
pub struct Parts {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The embedding model, if there is one.
    pub engine: Option<Engine>,
    /// Where vectors are stored; without, they are made again when a conversation is read again.
    pub vectors: Option<Arc<dyn TurnVectors>>,
    /// How much is kept, read and embedded.
    pub bounds: Bounds,
}

/// Finds earlier messages; see the module documentation.
pub struct Recollector {
    inner: Arc<Inner>,
    /// Ends the work in the background when it is dropped.
    _running: watch::Sender<()>,
}

struct Inner {
    parts: Parts,
    cache: Cache,
    waiting: Arc<Waiting>,
    /// Pieces of work in the background that have ended, for tests.
    pieces: watch::Sender<u64>,
}

impl std::fmt::Debug for Recollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recollector").finish_non_exhaustive()
    }
}

impl Recollector {
    /// Starts the work in the background, which ends when this is dropped. Needs a runtime.
    pub fn start(parts: Parts) -> Self {
        let inner = Arc::new(Inner {
            cache: Cache::new(parts.bounds.cache_bytes, parts.bounds.idle),
            waiting: Arc::new(Waiting::new(parts.bounds.waiting)),
            pieces: watch::Sender::new(0),
            parts,
        });
        let (running, mut ends) = watch::channel(());
        // What it works with is released with the last caller, not when this task is scheduled next.
        let (weak, waiting) = (Arc::downgrade(&inner), Arc::clone(&inner.waiting));
        // Not with each piece of work: there may be very many conversations in memory.
        let sweep = inner.parts.bounds.idle / 8;
        tokio::spawn(async move {
            let run = async {
                let mut swept = Instant::now();
                loop {
                    // Also without work: what is idle goes.
                    let next = timeout(sweep, waiting.next()).await;
                    let Some(inner) = weak.upgrade() else { return };
                    if swept.elapsed() >= sweep {
                        inner.cache.drop_idle();
                        swept = Instant::now();
                    }
                    if let Ok((scope, key, upto)) = next {
                        inner.work(&scope, key, upto).await;
                    }
                }
            };
            tokio::select! {
                () = run => {}
                _ = ends.changed() => {}
            }
        });
        Self {
            inner,
            _running: running,
        }
    }

    /// Waits until nothing waits to be done in the background. For tests.
    #[cfg(any(test, feature = "fakes"))]
    pub async fn settle(&self) {
        let mut pieces = self.inner.pieces.subscribe();
        // The sender lives in `self`.
        while !self.inner.waiting.is_idle() && pieces.changed().await.is_ok() {}
    }
}

impl Inner {
    /// Does one piece of work in the background, and queues the rest.
    async fn work(&self, scope: &TenantScope, key: Key, upto: Seq) {
        let piece = timeout(BACKGROUND_TIMEOUT, self.piece(scope, &key, upto)).await;
        let is_more = match piece {
            Ok(Ok(is_more)) => is_more,
            Ok(Err(error)) => {
                tracing::warn!(tenant = %key.0, conversation = %key.1, %error, "earlier messages of a conversation could not be prepared for searches; the next turn tries again");
                false
            }
            Err(_) => {
                tracing::warn!(tenant = %key.0, conversation = %key.1, "preparing a conversation's earlier messages for searches timed out; the next turn tries again");
                false
            }
        };
        if is_more {
            self.wait(scope, key, upto);
        }
        self.waiting.done();
        self.pieces.send_modify(|pieces| *pieces += 1);
    }

    /// Queues a conversation for the background.
    fn wait(&self, scope: &TenantScope, key: Key, upto: Seq) {
        if !self.waiting.push(scope, key, upto) {
            counter!("copilotd_recall_preparations_dropped_total").increment(1);
        }
    }

    /// Reads one page, or embeds a few messages. Returns whether there is more to do.
    async fn piece(&self, scope: &TenantScope, key: &Key, upto: Seq) -> Result<bool, RecallError> {
        let conversation = self.cache.get(key);
        if conversation.lock().upto_seq() < upto {
            self.read_page(scope, key, &conversation, upto).await?;
            return Ok(true);
        }
        let unembedded = {
            let conversation = conversation.lock();
            if conversation.is_erased() {
                return Ok(false);
            }
            conversation.unembedded(upto, usize::MAX, EMBEDDED_AT_ONCE)
        };
        if unembedded.is_empty() || self.parts.engine.is_none() {
            return Ok(false);
        }
        self.embed(scope, key, &conversation, unembedded, Urgency::Background)
            .await
    }

    /// Reads the next page of the log.
    async fn read_page(
        &self,
        scope: &TenantScope,
        key: &Key,
        conversation: &Shared,
        upto: Seq,
    ) -> Result<(), RecallError> {
        let Parts {
            log,
            engine,
            vectors,
            bounds,
        } = &self.parts;
        let (after, from) = {
            let conversation = conversation.lock();
            let after = conversation.upto_seq();
            (after, conversation.vectors_from(after + 1))
        };
        let mut records = log.read(scope, key.1, after, bounds.page).await.map_err(unavailable)?;
        let is_last = records.len() < bounds.page || records.last().is_some_and(|last| last.seq >= upto);
        records.retain(|record| record.seq <= upto);
        let last = records.last().map_or(after, |last| last.seq);
        let stored = match (engine, vectors) {
            (Some(engine), Some(vectors)) if last > after => {
                // Without them the messages are embedded again.
                let loaded = vectors.load(scope, key.1, &engine.space, from, last).await;
                loaded.unwrap_or_else(|error| {
                    tracing::warn!(tenant = %key.0, conversation = %key.1, %error, "stored vectors of a conversation could not be read; making them again");
                    Vec::new()
                })
            }
            _ => Vec::new(),
        };
        let stored: HashMap<Seq, TurnVector> = stored.into_iter().map(|row| (row.seq, row)).collect();
        let bytes: usize = records.iter().map(Record::weight).sum();
        let cost = bytes * (tokens::COST_PER_BYTE + TERMS_COST_PER_BYTE);
        let upto = if is_last { upto } else { last };
        let shared = Arc::clone(conversation);
        let apply = move || {
            let mut conversation = shared.lock();
            // Otherwise another call has read the same page meanwhile.
            if conversation.upto_seq() == after {
                conversation.apply(records, stored, upto);
            }
            conversation.bytes()
        };
        let bytes = compute::run(Some(&key.0), cost, apply).await;
        let bytes = bytes.map_err(|error| RecallError::Unavailable(error.to_string()))?;
        self.cache.measured(key, conversation, bytes);
        Ok(())
    }

    /// Embeds messages and stores their vectors. Returns whether the conversation may be worked on further.
    async fn embed(
        &self,
        scope: &TenantScope,
        key: &Key,
        conversation: &Shared,
        unembedded: Vec<Unembedded>,
        urgency: Urgency,
    ) -> Result<bool, RecallError> {
        let texts = unembedded.iter().flat_map(|message| message.texts.clone()).collect();
        let made = self.vectors(texts, Purpose::Passage, urgency).await?;
        let mut made = made.into_iter();
        let mut rows = Vec::with_capacity(unembedded.len());
        for message in &unembedded {
            let (Some(alone), Some(after_previous)) = (made.next(), made.next()) else {
                return Err(RecallError::Unavailable("a vector is missing".to_owned()));
            };
            rows.push(TurnVector {
                seq: message.seq,
                alone,
                after_previous,
            });
        }
        if let Some(vectors) = &self.parts.vectors {
            // What could not be stored is used all the same.
            match vectors.put(scope, key.1, rows.clone()).await {
                Ok(true) => self.check(scope, key).await?,
                Ok(false) => {
                    self.cache.remove(|known| known == key);
                    return Ok(false);
                }
                Err(error) => {
                    tracing::warn!(tenant = %key.0, conversation = %key.1, %error, "vectors of a conversation could not be stored; they are made again when it is read again");
                }
            }
        }
        let bytes = {
            let mut conversation = conversation.lock();
            for (message, row) in unembedded.iter().zip(&rows) {
                conversation.set_vectors(message.number, row);
            }
            conversation.bytes()
        };
        self.cache.measured(key, conversation, bytes);
        Ok(true)
    }

    /// Deletes what was stored for a tenant that was deleted meanwhile: its conversations have no header any more. An
    /// erased conversation has one, and the store itself refuses its vectors.
    async fn check(&self, scope: &TenantScope, key: &Key) -> Result<(), RecallError> {
        let header = self.parts.log.header(scope, key.1).await.map_err(unavailable)?;
        if header.is_some() {
            return Ok(());
        }
        self.forget_tenant(&key.0);
        if let Some(vectors) = &self.parts.vectors {
            vectors.erase_tenant(scope).await.map_err(unavailable)?;
        }
        Err(RecallError::Unavailable("the conversation is gone".to_owned()))
    }

    fn forget_tenant(&self, tenant: &TenantId) {
        self.cache.remove(|known| known.0 == *tenant);
        self.waiting.remove(|known| known.0 == *tenant);
    }

    async fn vectors(
        &self,
        texts: Vec<String>,
        purpose: Purpose,
        urgency: Urgency,
    ) -> Result<Vec<Vector>, RecallError> {
        let Some(engine) = &self.parts.engine else {
            return Err(RecallError::Unavailable("there is no embedding model".to_owned()));
        };
        let request = EmbedRequest {
            texts,
            purpose,
            urgency,
        };
        let limit = match urgency {
            Urgency::Foreground => EMBED_TIMEOUT,
            Urgency::Background => BACKGROUND_TIMEOUT,
        };
        match timeout(limit, engine.embedder.embed(request)).await {
            Ok(Ok(vectors)) => Ok(vectors),
            Ok(Err(error)) => Err(RecallError::Unavailable(error.to_string())),
            Err(_) => Err(RecallError::TimedOut(limit)),
        }
    }

    /// Returns the question's vector, after embedding what the newest messages lack; none without a model, or if it has no
    /// time.
    async fn question(
        &self,
        scope: &TenantScope,
        key: &Key,
        conversation: &Shared,
        query: &RecallQuery,
    ) -> Option<Vector> {
        self.parts.engine.as_ref()?;
        let newest = self.parts.bounds.newest;
        let (unembedded, text) = {
            let conversation = conversation.lock();
            let text = conversation.question_to_embed(&query.question);
            (conversation.unembedded(query.before, newest, newest), text)
        };
        if !unembedded.is_empty() {
            let embedded = self
                .embed(scope, key, conversation, unembedded, Urgency::Foreground)
                .await;
            if let Err(error) = embedded {
                tracing::warn!(tenant = %key.0, conversation = %key.1, %error, "newest messages could not be embedded; they are found by words alone");
            }
        }
        if !conversation.lock().has_vectors() {
            return None;
        }
        match self.vectors(vec![text], Purpose::Query, Urgency::Foreground).await {
            Ok(vectors) => vectors.into_iter().next(),
            Err(error) => {
                tracing::warn!(tenant = %key.0, conversation = %key.1, %error, "a question could not be embedded; searching earlier messages by words alone");
                None
            }
        }
    }
}

#[async_trait]
impl Recollection for Recollector {
    async fn recall(&self, scope: &TenantScope, query: &RecallQuery) -> Result<Recalled, RecallError> {
        let inner = &self.inner;
        if !query.question.chars().any(char::is_alphanumeric) {
            return Ok(Recalled {
                is_complete: true,
                ..Recalled::default()
            });
        }
        let key = (scope.tenant().clone(), query.conversation);
        let conversation = inner.cache.get(&key);
        let mut clock = Steps::default();
        let upto = query.upto_seq.max(query.before);
        for _ in 0..inner.parts.bounds.pages {
            if conversation.lock().upto_seq() >= upto {
                break;
            }
            inner.read_page(scope, &key, &conversation, upto).await?;
        }
        clock.end(RetrievalStep::Read);
        let vector = inner.question(scope, &key, &conversation, query).await;
        clock.end(RetrievalStep::Embed);
        let is_semantic = vector.is_some();
        let (shared, asked) = (Arc::clone(&conversation), query.clone());
        let cost = conversation.lock().len() * SEARCH_COST_PER_MESSAGE;
        let search = move || {
            let conversation = shared.lock();
            let (mut before, budget) = (asked.before, asked.budget_tokens);
            if conversation.upto_seq() < upto {
                before = before.min(conversation.before_newest_turn());
            }
            let found = conversation.select(&asked.question, vector.as_ref(), before, budget, asked.limit);
            let is_ready = conversation.unembedded(upto, usize::MAX, 1).is_empty();
            (found, conversation.upto_seq() >= upto, is_ready)
        };
        let found = compute::run(Some(scope.tenant()), cost, search).await;
        let ((messages, omitted), is_complete, is_ready) =
            found.map_err(|error| RecallError::Unavailable(error.to_string()))?;
        clock.end(RetrievalStep::Search);
        if !is_complete || (!is_ready && inner.parts.engine.is_some()) {
            inner.wait(scope, key, upto);
        }
        Ok(Recalled {
            messages,
            omitted,
            is_semantic,
            is_complete,
            steps: clock.steps,
        })
    }

    fn prepare(&self, scope: &TenantScope, conversation: ConversationId, upto_seq: Seq) {
        let key = (scope.tenant().clone(), conversation);
        self.inner.wait(scope, key, upto_seq);
    }

    async fn erase(&self, scope: &TenantScope, conversation: ConversationId) -> Result<u64, RecallError> {
        let key = (scope.tenant().clone(), conversation);
        self.inner.cache.remove(|known| *known == key);
        self.inner.waiting.remove(|known| *known == key);
        match &self.inner.parts.vectors {
            Some(vectors) => vectors.erase(scope, conversation).await.map_err(unavailable),
            None => Ok(0),
        }
    }

    async fn erase_tenant(&self, scope: &TenantScope) -> Result<u64, RecallError> {
        self.inner.forget_tenant(scope.tenant());
        match &self.inner.parts.vectors {
            Some(vectors) => vectors.erase_tenant(scope).await.map_err(unavailable),
            None => Ok(0),
        }
    }
}

/// Measures steps that follow each other.
struct Steps {
    started: Instant,
    steps: Vec<(RetrievalStep, Duration)>,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            steps: Vec::with_capacity(3),
        }
    }
}

impl Steps {
    fn end(&mut self, step: RetrievalStep) {
        let took = self.started.elapsed();
        self.started += took;
        self.steps.push((step, took));
    }
}

fn unavailable(error: LogError) -> RecallError {
    RecallError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests;
