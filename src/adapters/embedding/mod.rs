//! Embedding models in this process. Each runs on a thread of its own, never on those of the async runtime; under load
//! it runs waiting requests as one batch.
//!
//! Invariant: waiting requests are bounded in number (`QUEUE`) and in size; beyond that a request is refused at once.

mod bert;
mod files;
mod minilm;
mod pull;
mod table;
mod tensors;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::ports::{EmbedError, EmbedRequest, Embedder, Space, Vector};
pub use files::{FilesError, ModelFiles, ModelKind};
use parking_lot::Mutex;
pub use pull::{PullError, pull};
use tokio::sync::{mpsc, oneshot};

/// Requests that wait for the model.
const QUEUE: usize = 256;
/// Most texts that are run as one batch.
const BATCH: usize = 32;
/// Longest time of a request, waiting and running.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A loaded model.
trait Encoder: Send {
    /// Embeds `texts`, in their order.
    fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, String>;
}

/// One request to the model's thread.
struct Job {
    texts: Vec<String>,
    reply: oneshot::Sender<Result<Vec<Vector>, EmbedError>>,
}

/// A model in this process.
#[derive(Debug)]
pub struct LocalEmbedder {
    queue: mpsc::Sender<Job>,
    /// Ends when the queue's last sender is dropped.
    _thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl LocalEmbedder {
    /// Verifies the files of `kind` in `directory` by their hashes and loads them. Takes up to a second: do not call it
    /// on an async thread.
    pub fn load(kind: ModelKind, directory: &Path) -> Result<Self, FilesError> {
        let files = ModelFiles::open(kind, directory)?;
        let encoder: Box<dyn Encoder> = match kind {
            ModelKind::Wordllama => Box::new(table::Table::load(&files)?),
            ModelKind::Minilm => Box::new(minilm::MiniLm::load(&files)?),
        };
        Self::start(kind.space(), encoder, QUEUE)
    }

    fn start(space: Space, encoder: Box<dyn Encoder>, queue: usize) -> Result<Self, FilesError> {
        let (sender, receiver) = mpsc::channel(queue);
        let thread = std::thread::Builder::new()
            .name("embed".to_owned())
            .spawn({
                let space = Arc::clone(&space);
                move || run(&space, &*encoder, receiver)
            })
            .map_err(|error| FilesError::Unusable {
                model: space.to_string(),
                message: format!("cannot start its thread: {error}"),
            })?;
        Ok(Self {
            queue: sender,
            _thread: Mutex::new(Some(thread)),
        })
    }
}

#[async_trait]
impl Embedder for LocalEmbedder {
    async fn embed(&self, request: EmbedRequest) -> Result<Vec<Vector>, EmbedError> {
        request.check()?;
        let texts = request.texts;
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Job { texts, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => EmbedError::Busy,
            mpsc::error::TrySendError::Closed(_) => EmbedError::Failed("the model's thread has ended".to_owned()),
        })?;
        match tokio::time::timeout(REQUEST_TIMEOUT, answer).await {
            Ok(Ok(vectors)) => vectors,
            Ok(Err(_)) => Err(EmbedError::Failed("the model's thread dropped the request".to_owned())),
            Err(_) => Err(EmbedError::Timeout),
        }
    }
}

/// The model's thread: ends when the last [`LocalEmbedder`] is dropped.
fn run(space: &Space, encoder: &dyn Encoder, mut queue: mpsc::Receiver<Job>) {
    while let Some(first) = queue.blocking_recv() {
        let mut texts = first.texts.len();
        let mut jobs = vec![first];
        while texts < BATCH {
            let Ok(job) = queue.try_recv() else { break };
            texts += job.texts.len();
            jobs.push(job);
        }
        // Nobody reads the answer of a request that was given up.
        jobs.retain(|job| !job.reply.is_closed());
        answer(space, encoder, jobs);
    }
}

fn answer(space: &Space, encoder: &dyn Encoder, jobs: Vec<Job>) {
    let texts: Vec<&str> = jobs
        .iter()
        .flat_map(|job| job.texts.iter().map(String::as_str))
        .collect();
    let mut vectors = Vec::with_capacity(texts.len());
    let mut failure = None;
    for batch in texts.chunks(BATCH) {
        // A panic in a dependency's numerics must fail this batch and not end the thread.
        let encoded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| encoder.encode(batch)));
        match encoded.unwrap_or_else(|_| Err("the model panicked".to_owned())) {
            Ok(batch) => vectors.extend(batch.into_iter().map(|values| Vector::unit(space, values))),
            Err(message) => {
                failure = Some(EmbedError::Failed(message));
                break;
            }
        }
    }
    let mut vectors = vectors.into_iter();
    for job in jobs {
        let result = match &failure {
            Some(error) => Err(error.clone()),
            None => {
                let own: Option<Vec<Vector>> = vectors.by_ref().take(job.texts.len()).collect();
                own.ok_or_else(|| EmbedError::Failed("the model returned a zero vector for a text".to_owned()))
            }
        };
        // A caller that has left wants no answer.
        let _ = job.reply.send(result);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// Gives each text the vector of its length, records the sizes of batches and waits at `gate` if there is one.
    struct Fake {
        sizes: Arc<Mutex<Vec<usize>>>,
        gate: Option<Arc<Barrier>>,
    }

    impl Encoder for Fake {
        fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, String> {
            self.sizes.lock().push(texts.len());
            if let Some(gate) = &self.gate {
                gate.wait();
            }
            match texts {
                ["fail"] => Err("no".to_owned()),
                ["panic"] => panic!("on purpose"),
                texts => Ok(texts.iter().map(|text| vec![text.len() as f32, 1.0]).collect()),
            }
        }
    }

    fn embedder(gate: Option<Arc<Barrier>>, queue: usize) -> (Arc<LocalEmbedder>, Arc<Mutex<Vec<usize>>>) {
        let sizes = Arc::default();
        let fake = Fake {
            sizes: Arc::clone(&sizes),
            gate,
        };
        (
            Arc::new(LocalEmbedder::start("fake".into(), Box::new(fake), queue).unwrap()),
            sizes,
        )
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[tokio::test]
    async fn a_failure_or_a_panic_costs_its_batch_alone() {
        let (embedder, _) = embedder(None, 8);
        assert_eq!(
            embedder.embed(EmbedRequest::to_compare(texts(&["fail"]))).await,
            Err(EmbedError::Failed("no".to_owned()))
        );
        assert!(matches!(
            embedder.embed(EmbedRequest::to_compare(texts(&["panic"]))).await,
            Err(EmbedError::Failed(_))
        ));
        assert_eq!(
            embedder
                .embed(EmbedRequest::to_compare(texts(&["a", "abc"])))
                .await
                .unwrap()
                .len(),
            2
        );
        assert_eq!(
            embedder.embed(EmbedRequest::to_compare(Vec::new())).await,
            Ok(Vec::new())
        );
        let many = vec![String::new(); 1_000];
        assert!(matches!(
            embedder.embed(EmbedRequest::to_compare(many)).await,
            Err(EmbedError::TooLarge(_))
        ));
    }

    #[tokio::test]
    async fn waiting_requests_become_one_batch_and_too_many_are_refused() {
        let gate = Arc::new(Barrier::new(2));
        let (embedder, sizes) = embedder(Some(Arc::clone(&gate)), 4);
        let ask = |text: &'static str| {
            let embedder = Arc::clone(&embedder);
            tokio::spawn(async move { embedder.embed(EmbedRequest::to_compare(vec![text.to_owned()])).await })
        };
        let first = ask("a");
        while sizes.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        // The thread is at the gate: four wait, the fifth is refused.
        let waiting: Vec<_> = (0..4).map(|_| ask("bb")).collect();
        while embedder.queue.capacity() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            embedder.embed(EmbedRequest::to_compare(texts(&["c"]))).await,
            Err(EmbedError::Busy)
        );
        let open = tokio::task::spawn_blocking(move || {
            gate.wait();
            gate.wait();
        });
        assert!(first.await.unwrap().is_ok());
        for asked in waiting {
            assert!(asked.await.unwrap().is_ok());
        }
        open.await.unwrap();
        assert_eq!(*sizes.lock(), [1, 4]);
    }
}
