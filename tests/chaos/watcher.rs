//! A stream reader that behaves like a browser: it reconnects with `Last-Event-ID`, leaves at will, and may be slow.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use reqwest::{Method, Response};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::findings::Promise;
use crate::schedule::Reading;
use crate::server::ServerState;
use crate::support::transcript::{Frames, Transcript};

/// Pause before a reader reconnects; a browser's is longer, which would test nothing more.
const PAUSE: Duration = Duration::from_millis(100);
/// A stream sends something every 15 s; the rest is tolerance for a busy machine.
const SILENCE: Duration = Duration::from_secs(20);
/// Silence is measured in intervals of this length: a run that was not scheduled itself counts at most one.
const TICK: Duration = Duration::from_millis(500);

pub const ATTENTIVE: Reading = Reading {
    pause: Duration::ZERO,
    leaves_after: None,
};

/// A reader; it leaves when dropped.
pub struct Watcher {
    pub path: String,
    seen: Arc<ReaderState>,
    task: JoinHandle<()>,
}

struct ReaderState {
    transcript: Mutex<Transcript>,
    changed: watch::Sender<()>,
}

impl ReaderState {
    fn lock(&self) -> MutexGuard<'_, Transcript> {
        self.transcript.lock()
    }
}

impl Watcher {
    /// Reads `path` to its end, across deaths of the server.
    pub fn open(client: &Client, conversation: &str, path: String, reading: Reading) -> Self {
        let seen = Arc::new(ReaderState {
            transcript: Mutex::default(),
            changed: watch::Sender::new(()),
        });
        let reader = Reader {
            client: client.clone(),
            conversation: conversation.to_owned(),
            path: path.clone(),
            reading,
            seen: Arc::clone(&seen),
        };
        Self {
            path,
            seen,
            task: tokio::spawn(reader.read()),
        }
    }

    /// Inspects what it has received so far.
    pub fn look<T>(&self, look: impl FnOnce(&Transcript) -> T) -> T {
        look(&self.seen.lock())
    }

    /// Waits until it has received something; returns false at the deadline.
    pub async fn until(&self, client: &Client, found: impl Fn(&Transcript) -> bool) -> bool {
        let mut changed = self.seen.changed.subscribe();
        while !self.look(&found) {
            let waited = tokio::time::timeout_at(client.shared.end, changed.changed()).await;
            if !matches!(waited, Ok(Ok(()))) {
                return self.look(&found);
            }
        }
        true
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a connection ended.
enum Disconnect {
    Broken,
    AtWill,
}

struct Reader {
    client: Client,
    conversation: String,
    path: String,
    reading: Reading,
    seen: Arc<ReaderState>,
}

impl Reader {
    fn broken(&self, promise: Promise, what: String) {
        let about = Some(self.conversation.as_str());
        self.client.shared.findings.add(promise, about, what);
    }

    fn note(&self, what: &str) {
        let line = format!("{}: {what}", self.path);
        self.client.shared.history.about(&self.conversation, line);
    }

    async fn read(self) {
        loop {
            let position = self.seen.lock().position.clone();
            let mut request = self.client.request(Method::GET, &self.path).await;
            if let Some(position) = &position {
                request = request.header("last-event-id", position);
            }
            match request.send().await {
                Ok(answer) => match answer.status().as_u16() {
                    200 => {
                        self.note(&format!("connected, reading from {position:?}"));
                        self.seen.lock().connections += 1;
                        let left = match self.follow(answer).await {
                            Disconnect::Broken => "broke",
                            Disconnect::AtWill => "left at will",
                        };
                        self.note(&format!("{left} at {:?}", self.seen.lock().position));
                    }
                    // Nothing follows.
                    204 => return,
                    503 => self.note(&format!("503 {}", answer.text().await.unwrap_or_default())),
                    404 => {
                        self.note("answered with 404: no longer exists");
                        self.seen.lock().gone = true;
                        self.seen.changed.send_replace(());
                        return;
                    }
                    status => {
                        let body = answer.text().await.unwrap_or_default();
                        let what = format!(
                            "{} at {position:?} was answered with status {status}: {body}",
                            self.path
                        );
                        let promise = if status >= 500 {
                            Promise::Process
                        } else {
                            Promise::Streams
                        };
                        self.broken(promise, what);
                    }
                },
                Err(error) => self.note(&error.to_string()),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Reads one connection.
    async fn follow(&self, mut answer: Response) -> Disconnect {
        // The remains of a frame on a broken connection are not an event.
        let mut frames = Frames::default();
        let life = self.client.shared.life.clone();
        let mut pieces = 0;
        loop {
            tokio::time::sleep(self.reading.pause).await;
            let mut silent = Duration::ZERO;
            let bytes = loop {
                match tokio::time::timeout(TICK, answer.chunk()).await {
                    Ok(Ok(Some(bytes))) => break bytes,
                    Ok(Ok(None) | Err(_)) => return Disconnect::Broken,
                    Err(_) if matches!(*life.borrow(), ServerState::Serving(_)) => silent += TICK,
                    // A stopped server cannot send anything.
                    Err(_) => silent = Duration::ZERO,
                }
                if silent > SILENCE {
                    self.broken(Promise::Silence, format!("{} was silent for {silent:?}", self.path));
                    return Disconnect::Broken;
                }
            };
            let mut faults = Vec::new();
            let mut events = 0;
            {
                let mut transcript = self.seen.lock();
                frames.push(&bytes, |id, name, data| {
                    events += 1;
                    transcript.take(id, name, data);
                    faults.append(&mut transcript.faults);
                });
            }
            for fault in faults {
                self.broken(Promise::Streams, format!("{}: {fault}", self.path));
            }
            self.seen.changed.send_replace(());
            // A comment does not advance the reader.
            pieces += u32::from(events > 0);
            if self.reading.leaves_after.is_some_and(|most| pieces >= most) {
                return Disconnect::AtWill;
            }
        }
    }
}
