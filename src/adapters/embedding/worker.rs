//! A thread of the model: takes requests, and runs one batch of a request at a time.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use copilotd_actors::ports::{EmbedError, Purpose, Space, Urgency, Vector};
use rten::ThreadPool;
use tokio::sync::oneshot;

use super::Model;
use super::queue::Queues;

/// Most tokens of a batch, padding included, unless it is a single text. Short texts gain from company; from this size
/// on a batch costs as much as its texts alone, and background batches have to be short.
const BATCH_TOKENS: usize = 256;

/// Nice value of the background's arithmetic, the lowest priority: on a busy processor they get about a hundredth of a serving
/// thread's share.
#[cfg(target_os = "linux")]
const BACKGROUND_NICE: i32 = 19;

/// A request and what is done of it.
pub(super) struct Job {
    /// Texts that are not embedded yet, each with its place in the request, the shortest first.
    todo: VecDeque<(usize, String)>,
    purpose: Purpose,
    /// One for each text of the request.
    vectors: Vec<Option<Vector>>,
    reply: oneshot::Sender<Result<Vec<Vector>, EmbedError>>,
}

impl Job {
    pub(super) fn new(
        texts: Vec<String>,
        purpose: Purpose,
        reply: oneshot::Sender<Result<Vec<Vector>, EmbedError>>,
    ) -> Self {
        let vectors = vec![None; texts.len()];
        let mut todo: Vec<_> = texts.into_iter().enumerate().collect();
        // Texts of similar lengths beside each other: a batch costs its longest text times their number.
        todo.sort_by_key(|(_, text)| text.len());
        Self {
            todo: todo.into(),
            purpose,
            vectors,
            reply,
        }
    }

    /// Nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

/// Runs until the queues are closed.
pub(super) fn run(urgency: Urgency, space: &Space, model: &dyn Model, queues: &Queues<Job>) {
    let threads = Arc::new(ThreadPool::with_num_threads(1));
    if urgency == Urgency::Background {
        // Only of the pool's thread, which does the arithmetic. This one takes locks that others wait for: those of the
        // queues, and those of the runtime when it sends an answer. A thread that holds a lock must not wait for a
        // processor until nobody else wants it.
        threads.run(lower_priority);
    }
    while let Some(mut entry) = queues.take(urgency) {
        let job = &mut entry.request;
        let outcome = if job.is_abandoned() {
            Err(EmbedError::Timeout)
        } else {
            // A panic in a dependency's numerics must fail this request and not end the thread.
            catch_unwind(AssertUnwindSafe(|| step(job, urgency, space, model, &threads)))
                .unwrap_or_else(|_| Err(EmbedError::Failed("the model panicked".to_owned())))
        };
        let result = match outcome {
            Ok(()) if !job.todo.is_empty() => {
                queues.put_back(entry);
                continue;
            }
            Ok(()) => {
                let vectors: Option<Vec<Vector>> = std::mem::take(&mut job.vectors).into_iter().collect();
                vectors.ok_or_else(|| EmbedError::Failed("the model returned a zero vector for a text".to_owned()))
            }
            Err(error) => Err(error),
        };
        // A caller that has left wants no answer.
        let _ = queues.finish(entry).reply.send(result);
    }
}

/// Embeds the next texts of a job. In the foreground one text at a time: its vector then does not depend, even in the
/// last digits, on the texts beside it, and nobody waits for another's batch.
fn step(
    job: &mut Job,
    urgency: Urgency,
    space: &Space,
    model: &dyn Model,
    threads: &Arc<ThreadPool>,
) -> Result<(), EmbedError> {
    let mut batch: Vec<(usize, Vec<u32>)> = Vec::new();
    let mut longest = 0;
    while let Some((place, text)) = job.todo.pop_front() {
        let tokens = model.tokens(&text, job.purpose).map_err(EmbedError::Failed)?;
        longest = longest.max(tokens.len());
        if !batch.is_empty() && longest * (batch.len() + 1) > BATCH_TOKENS {
            job.todo.push_front((place, text));
            break;
        }
        batch.push((place, tokens));
        if urgency == Urgency::Foreground {
            break;
        }
    }
    let texts: Vec<&[u32]> = batch.iter().map(|(_, tokens)| tokens.as_slice()).collect();
    let vectors = model.run(&texts, threads).map_err(EmbedError::Failed)?;
    if vectors.len() != batch.len() {
        return Err(EmbedError::Failed(format!(
            "the model returned {} vectors for {} texts",
            vectors.len(),
            batch.len()
        )));
    }
    for ((place, _), values) in batch.into_iter().zip(vectors) {
        job.vectors[place] = Vector::unit(space, values);
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn lower_priority() {
    // On Linux each thread has its own priority.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), BACKGROUND_NICE) {
        tracing::debug!(%error, "could not lower the priority of a background embedding thread");
    }
}

/// Does nothing: threads have no priority of their own on this system.
#[cfg(not(target_os = "linux"))]
fn lower_priority() {}

/// Returns the nice value of the calling thread, where threads have one.
#[cfg(test)]
pub(super) fn priority() -> Option<i32> {
    #[cfg(target_os = "linux")]
    return rustix::process::getpriority_process(Some(rustix::thread::gettid())).ok();
    #[cfg(not(target_os = "linux"))]
    None
}
