//! `copilotd knowledge import`: stores the files of a directory, or the lines of a JSONL file, in a running server.
//!
//! It only uses the HTTP API. Nothing is remembered between runs: the server answers content that it has with 200, so an
//! import that was interrupted continues when it is started again.

mod missing;
mod progress;
mod send;
mod source;
mod tally;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::ids::ExternalId;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use self::progress::Progress;
use self::send::{Client, Ended, Refused, Stored};
use self::source::{Found, Item};
use self::tally::Tally;
use super::args::ImportArgs;
use super::{Failure, print};

/// Pauses between two looks at a job that has not ended: the first one, and the longest.
const JOB_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Signals that ask the command to stop.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What became of an item.
struct Done {
    item: Item,
    outcome: Result<Stored, Refused>,
}

/// Runs the command.
pub(super) async fn run(args: &ImportArgs) -> Result<(), Failure> {
    let broken = |error: std::io::Error| Failure::failed(format!("cannot listen for signals: {error}"));
    let mut interrupts = Interrupts::listen().map_err(broken)?;
    let (cancel, cancelled) = watch::channel(false);
    let client = Arc::new(Client::new(&args.server, args.collection.clone(), cancelled)?);
    let mut import = Import {
        args,
        client,
        tally: Tally::default(),
        progress: Progress::new(),
        ids: HashSet::new(),
        jobs: VecDeque::new(),
        stopped: None,
    };
    let finished = {
        let work = import.work();
        tokio::pin!(work);
        tokio::select! {
            result = &mut work => Some(result),
            () = interrupts.next() => {
                super::print_stderr("stopping when the documents being sent are stored; interrupt again to stop immediately");
                cancel.send_replace(true);
                tokio::select! {
                    result = &mut work => Some(result),
                    () = interrupts.next() => None,
                }
            }
        }
    };
    let is_interrupted = *cancel.borrow();
    import.progress.finish();
    print(&format!("{}\n", import.tally.line(args.dry_run)))?;
    finished.unwrap_or(Ok(()))?;
    if let Some(reason) = import.stopped {
        return Err(Failure::failed(format!("the import was stopped: {reason}")));
    }
    if is_interrupted {
        let text =
            "the import was interrupted; start it again to continue, what is stored is not sent twice to the index";
        return Err(Failure::failed(text));
    }
    match import.tally.failed {
        0 => Ok(()),
        1 => Err(Failure::failed("1 document failed")),
        failed => Err(Failure::failed(format!("{failed} documents failed"))),
    }
}

/// A running import.
struct Import<'a> {
    args: &'a ImportArgs,
    client: Arc<Client>,
    tally: Tally,
    progress: Progress,
    /// Ids of all documents of the source; only if missing ones are to be deleted.
    ids: HashSet<ExternalId>,
    /// Jobs that have not ended as far as is known, with the places of their documents; only if they are waited for.
    jobs: VecDeque<(String, String)>,
    /// Why no document can be stored any more.
    stopped: Option<String>,
}

impl Import<'_> {
    async fn work(&mut self) -> Result<(), Failure> {
        let (items, found) = mpsc::channel(usize::from(self.args.parallel));
        source::start(self.args, items)?;
        if self.args.dry_run {
            self.list(found).await?;
        } else {
            self.store(found).await;
        }
        if self.is_over() {
            return Ok(());
        }
        // First, because nothing is deleted if a document could not be ingested.
        if self.args.wait && !self.args.dry_run {
            self.wait().await;
        }
        match self.args.delete_missing {
            Some(most) if !self.is_over() => self.delete_missing(most).await,
            _ => Ok(()),
        }
    }

    fn is_over(&self) -> bool {
        self.stopped.is_some() || self.client.is_cancelled()
    }

    /// Prints what would be stored.
    async fn list(&mut self, mut found: mpsc::Receiver<Found>) -> Result<(), Failure> {
        while let Some(found) = found.recv().await {
            if self.client.is_cancelled() {
                break;
            }
            let Some(item) = self.note(found) else { continue };
            match item.content(self.args.max_bytes).await {
                Ok(content) => {
                    self.tally.stored += 1;
                    let (id, place, bytes) = (&item.external_id, &item.place, content.size());
                    print(&format!("would store {id} ({place}, {bytes} bytes)\n"))?;
                }
                Err(reason) => self.fail(&item.place, &reason),
            }
            self.progress.advance(item.share, &self.tally);
        }
        Ok(())
    }

    /// Sends all documents, several at the same time.
    async fn store(&mut self, mut found: mpsc::Receiver<Found>) {
        let mut sending = FuturesUnordered::new();
        let mut is_read = false;
        loop {
            // When the import is to stop, documents that are being sent are still waited for.
            is_read = is_read || self.is_over();
            let has_room = sending.len() < usize::from(self.args.parallel);
            if is_read && sending.is_empty() {
                return;
            }
            tokio::select! {
                Some(done) = sending.next() => self.done(done),
                one = found.recv(), if !is_read && has_room => match one {
                    Some(one) => sending.extend(self.note(one).map(|item| send(Arc::clone(&self.client), item, self.args.max_bytes))),
                    None => is_read = true,
                },
                () = self.client.cancelled(), if !is_read => is_read = true,
                () = self.progress.tick() => self.progress.plain_line(&self.tally),
            }
        }
    }

    /// Counts what the source has; returns an item to store.
    fn note(&mut self, found: Found) -> Option<Item> {
        match found {
            Found::Item(item) => {
                if self.args.delete_missing.is_some() {
                    self.ids.insert(item.external_id.clone());
                }
                Some(item)
            }
            Found::Total(total) => {
                self.progress.expect(total);
                None
            }
            Found::Skipped { place, reason } => {
                self.tally.skipped += 1;
                if self.tally.skipped <= tally::SHOWN_SKIPS {
                    self.progress.say(&format!("skipped {place}: {reason}"));
                } else if self.tally.skipped == tally::SHOWN_SKIPS + 1 {
                    self.progress.say("more files are skipped; only their number is shown");
                }
                None
            }
            Found::Failed { place, reason, share } => {
                self.tally.unread += 1;
                self.fail(&place, &reason);
                self.progress.advance(share, &self.tally);
                None
            }
        }
    }

    fn done(&mut self, Done { item, outcome }: Done) {
        match outcome {
            Ok(stored) => {
                match stored.is_new {
                    true => self.tally.stored += 1,
                    false => self.tally.unchanged += 1,
                }
                if let Some(job) = stored.job.filter(|_| self.args.wait) {
                    self.jobs.push_back((job, item.place));
                }
            }
            Err(Refused::Document(reason)) => self.fail(&item.place, &reason),
            Err(Refused::Everything(reason)) => {
                self.stopped.get_or_insert(reason);
            }
            Err(Refused::Cancelled) => {}
        }
        self.progress.advance(item.share, &self.tally);
    }

    fn fail(&mut self, place: &str, reason: &str) {
        self.tally.failed += 1;
        self.progress.say(&format!("failed {place}: {reason}"));
    }

    /// Waits until the jobs of the stored documents have ended. The server works them off in the order in which they
    /// were accepted, so the first one is asked about until it has ended.
    async fn wait(&mut self) {
        self.progress.restart(self.jobs.len() as u64);
        while let Some((job, place)) = self.jobs.pop_front() {
            let mut pause = JOB_PAUSES.0;
            loop {
                match self.client.job(&job).await {
                    Ok(Ended::Yes) => break,
                    Ok(Ended::Failed(reason)) => {
                        self.tally.stored = self.tally.stored.saturating_sub(1);
                        self.fail(&place, &reason);
                        break;
                    }
                    Ok(Ended::NotYet) => {}
                    Err(Refused::Document(reason) | Refused::Everything(reason)) => {
                        self.stopped = Some(reason);
                        return;
                    }
                    Err(Refused::Cancelled) => return,
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.client.cancelled() => return,
                }
                pause = (pause * 2).min(JOB_PAUSES.1);
                self.progress.plain_line_of_wait(self.jobs.len() + 1);
            }
            self.progress.advance(1, &self.tally);
        }
    }
}

async fn send(client: Arc<Client>, item: Item, max_bytes: u64) -> Done {
    let outcome = match item.content(max_bytes).await {
        Ok(content) => client.put(&item.external_id, content).await,
        Err(reason) => Err(Refused::Document(reason)),
    };
    Done { item, outcome }
}
