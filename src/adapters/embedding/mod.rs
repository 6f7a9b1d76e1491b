//! Embedding models in this process. Each runs on threads of its own, never on those of the async runtime: some for
//! requests that somebody waits for, and some of the lowest priority for all others.
//!
//! Invariants: requests are bounded in number and in size, for each urgency alone; beyond that a request is refused at
//! once. No batch of the background starts while a foreground request waits, and none runs long.

mod bge;
mod files;
mod pull;
mod queue;
mod worker;

use std::fmt;
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::ports::{EmbedError, EmbedRequest, Embedder, Purpose, Space, Urgency, Vector};
use copilotd_knowledge::chunk::{Estimate, TokenCount};
pub use files::{FilesError, ModelFiles, ModelKind};
pub use pull::{PullError, pull};
use queue::{Bounds, Queues};
use rten::ThreadPool;
use tokio::sync::oneshot;
use worker::Job;

/// What may wait and run at once, for each urgency.
const BOUNDS: Bounds = Bounds {
    requests: 256,
    bytes: 16 << 20,
};
/// Longest time of a foreground request, waiting and running.
const FOREGROUND_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time of a background request. A request of the largest size takes minutes on one core, and more while
/// foreground requests keep it busy.
const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// A loaded model, which several threads run at once.
trait Model: Send + Sync {
    /// Returns the tokens of `text`, only as many as the model reads.
    fn tokens(&self, text: &str, purpose: Purpose) -> Result<Vec<u32>, String>;

    /// Embeds texts, given by their tokens, in their order. Runs on `threads`.
    fn run(&self, texts: &[&[u32]], threads: &Arc<ThreadPool>) -> Result<Vec<Vec<f32>>, String>;
}

/// Threads of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threads {
    /// For requests that somebody waits for.
    pub foreground: usize,
    /// For all others, at the lowest priority.
    pub background: usize,
}

impl Default for Threads {
    /// Half of the processors for the background, and a quarter for the foreground; at least one each.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            foreground: (processors / 4).max(1),
            background: (processors / 2).max(1),
        }
    }
}

/// A model in this process.
pub struct LocalEmbedder {
    space: Space,
    model: Arc<dyn Model>,
    queues: Arc<Queues<Job>>,
}

impl LocalEmbedder {
    /// Verifies the files of `kind` in `directory` by their hashes and loads them. Takes up to a second: do not call it
    /// on an async thread.
    pub fn load(kind: ModelKind, directory: &Path, threads: Threads) -> Result<Self, FilesError> {
        let files = ModelFiles::open(kind, directory)?;
        let model: Arc<dyn Model> = match kind {
            ModelKind::BgeSmall => Arc::new(bge::BgeSmall::load(&files)?),
        };
        Self::start(kind.space(), model, threads, BOUNDS)
    }

    fn start(space: Space, model: Arc<dyn Model>, threads: Threads, bounds: Bounds) -> Result<Self, FilesError> {
        // Dropped on an error, it ends the threads that were started.
        let embedder = Self {
            space,
            model,
            queues: Arc::new(Queues::new(bounds)),
        };
        let foreground = std::iter::repeat_n((Urgency::Foreground, "embed"), threads.foreground.max(1));
        let background = std::iter::repeat_n((Urgency::Background, "embed-later"), threads.background.max(1));
        for (urgency, name) in foreground.chain(background) {
            let (space, model) = (Arc::clone(&embedder.space), Arc::clone(&embedder.model));
            let queues = Arc::clone(&embedder.queues);
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || worker::run(urgency, &space, &*model, &queues))
                .map_err(|error| FilesError::Unusable {
                    model: embedder.space.to_string(),
                    message: format!("cannot start its threads: {error}"),
                })?;
        }
        Ok(embedder)
    }

    /// Returns the tokens of `text` that the model reads, at most as many as it can, with those that it adds.
    pub fn count_tokens(&self, text: &str) -> Result<usize, EmbedError> {
        let tokens = self.model.tokens(text, Purpose::Passage);
        tokens.map(|tokens| tokens.len()).map_err(EmbedError::Failed)
    }

    /// Returns the space of its vectors.
    pub fn space(&self) -> &Space {
        &self.space
    }
}

impl TokenCount for LocalEmbedder {
    fn count(&self, text: &str) -> usize {
        // It adds one before the text and one after it. No text of that many tokens is a chunk, so it does not matter that
        // longer ones count no more.
        const ADDED: usize = 2;
        match self.count_tokens(text) {
            Ok(tokens) => tokens.saturating_sub(ADDED),
            Err(_) => Estimate.count(text),
        }
    }
}

impl Drop for LocalEmbedder {
    fn drop(&mut self) {
        self.queues.close();
    }
}

impl fmt::Debug for LocalEmbedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalEmbedder")
            .field("space", &self.space)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Embedder for LocalEmbedder {
    async fn embed(&self, request: EmbedRequest) -> Result<Vec<Vector>, EmbedError> {
        request.check()?;
        let EmbedRequest {
            texts,
            purpose,
            urgency,
        } = request;
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = texts.iter().map(String::len).sum();
        let (reply, answer) = oneshot::channel();
        self.queues
            .push(Job::new(texts, purpose, reply), urgency, bytes)
            .map_err(|_| EmbedError::Busy)?;
        let timeout = match urgency {
            Urgency::Foreground => FOREGROUND_TIMEOUT,
            Urgency::Background => BACKGROUND_TIMEOUT,
        };
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(vectors)) => vectors,
            Ok(Err(_)) => Err(EmbedError::Failed("the model's thread dropped the request".to_owned())),
            Err(_) => Err(EmbedError::Timeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use parking_lot::Mutex;

    use super::*;

    /// A token for each word. The vector of a text is that of its number of words; records batches, and waits at
    /// `gate` if there is one.
    #[derive(Default)]
    struct Fake {
        batches: Mutex<Vec<Vec<usize>>>,
        gate: Option<Barrier>,
        /// Of the threads that ran the batches.
        priorities: Mutex<Vec<i32>>,
    }

    impl Model for Fake {
        fn tokens(&self, text: &str, _: Purpose) -> Result<Vec<u32>, String> {
            match text {
                "fail" => Err("no".to_owned()),
                text => Ok(text.split_whitespace().map(|word| u32::from(word != "panic")).collect()),
            }
        }

        fn run(&self, texts: &[&[u32]], threads: &Arc<ThreadPool>) -> Result<Vec<Vec<f32>>, String> {
            self.priorities.lock().extend(threads.run(worker::priority));
            self.batches.lock().push(texts.iter().map(|text| text.len()).collect());
            if let Some(gate) = &self.gate {
                gate.wait();
            }
            assert!(texts.iter().all(|text| !text.contains(&0)), "on purpose");
            Ok(texts.iter().map(|text| vec![text.len() as f32, 1.0]).collect())
        }
    }

    fn embedder(gate: bool) -> (Arc<LocalEmbedder>, Arc<Fake>) {
        let fake = Arc::new(Fake {
            gate: gate.then(|| Barrier::new(2)),
            ..Fake::default()
        });
        let bounds = Bounds {
            requests: 4,
            bytes: 1 << 20,
        };
        let threads = Threads {
            foreground: 1,
            background: 1,
        };
        let model: Arc<dyn Model> = Arc::clone(&fake) as _;
        let embedder = LocalEmbedder::start("fake".into(), model, threads, bounds);
        (Arc::new(embedder.unwrap()), fake)
    }

    fn request(texts: &[&str], urgency: Urgency) -> EmbedRequest {
        EmbedRequest {
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
            purpose: Purpose::Passage,
            urgency,
        }
    }

    #[tokio::test]
    async fn a_failure_or_a_panic_costs_its_request_alone() {
        let (embedder, _) = embedder(false);
        for urgency in [Urgency::Foreground, Urgency::Background] {
            assert_eq!(
                embedder.embed(request(&["a", "fail"], urgency)).await,
                Err(EmbedError::Failed("no".to_owned()))
            );
            assert_eq!(
                embedder.embed(request(&["a", "panic"], urgency)).await,
                Err(EmbedError::Failed("the model panicked".to_owned()))
            );
            assert_eq!(embedder.embed(request(&["a", "b c"], urgency)).await.unwrap().len(), 2);
            assert_eq!(embedder.embed(request(&[], urgency)).await, Ok(Vec::new()));
            assert!(matches!(
                embedder.embed(request(&[""; 1_000], urgency)).await,
                Err(EmbedError::TooLarge(_))
            ));
        }
    }

    #[tokio::test]
    async fn background_batches_have_texts_of_similar_length_and_a_bounded_size() {
        let (embedder, fake) = embedder(false);
        let lengths = [3, 200, 1, 300, 2, 100, 90];
        let texts: Vec<String> = lengths.iter().map(|length| "w ".repeat(*length)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let vectors = embedder.embed(request(&texts, Urgency::Background)).await.unwrap();
        let space: Space = "fake".into();
        let expected = lengths.map(|length| Vector::unit(&space, vec![length as f32, 1.0]).unwrap());
        assert_eq!(vectors, expected, "in the order of the request");
        assert_eq!(
            *fake.batches.lock(),
            [vec![1, 2, 3], vec![90, 100], vec![200], vec![300]]
        );
        fake.batches.lock().clear();
        embedder.embed(request(&["a", "b"], Urgency::Foreground)).await.unwrap();
        assert_eq!(*fake.batches.lock(), [[1], [1]], "in the foreground alone");
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_requests_take_turns() {
        let (embedder, fake) = embedder(true);
        let ask = |texts: &[&str]| {
            let (embedder, request) = (Arc::clone(&embedder), request(texts, Urgency::Foreground));
            tokio::spawn(async move { embedder.embed(request).await })
        };
        let begun = async |count: usize| {
            while fake.batches.lock().len() < count {
                tokio::task::yield_now().await;
            }
        };
        let long = ask(&["a", "a", "a"]);
        begun(1).await;
        // The thread is at the gate: three more requests fill the queue.
        let mut short = vec![ask(&["b b"]), ask(&["c c"])];
        while embedder.queues.waiting(Urgency::Foreground) < 2 {
            tokio::task::yield_now().await;
        }
        let abandoned = ask(&["d d d d"]);
        while embedder.queues.waiting(Urgency::Foreground) < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            embedder.embed(request(&["e"], Urgency::Foreground)).await,
            Err(EmbedError::Busy)
        );
        abandoned.abort();
        assert!(abandoned.await.unwrap_err().is_cancelled());
        for number in 1..=5 {
            begun(number).await;
            let fake = Arc::clone(&fake);
            let opened = tokio::task::spawn_blocking(move || fake.gate.as_ref().map(Barrier::wait));
            opened.await.unwrap();
        }
        for asked in short.drain(..).chain([long]) {
            assert!(asked.await.unwrap().is_ok());
        }
        // Of the long request one text runs at a time, and what nobody waits for does not run.
        assert_eq!(*fake.batches.lock(), [[1], [2], [2], [1], [1]]);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_background_has_the_lowest_priority() {
        let (embedder, fake) = embedder(false);
        for urgency in [Urgency::Foreground, Urgency::Background] {
            embedder.embed(request(&["a"], urgency)).await.unwrap();
        }
        assert_eq!(*fake.priorities.lock(), [worker::priority().unwrap(), 19]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_takes_too_long_times_out() {
        let (embedder, fake) = embedder(true);
        let asked = tokio::spawn(async move { embedder.embed(request(&["a"], Urgency::Foreground)).await });
        // Time stands still until the thread is at the gate: this task is never idle.
        while fake.batches.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(asked.await.unwrap(), Err(EmbedError::Timeout));
        // Lets the thread go, so that it ends.
        fake.gate.as_ref().unwrap().wait();
    }
}
