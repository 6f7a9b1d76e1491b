//! A stream reader that behaves like a browser: it reconnects with `Last-Event-ID` until it is dropped.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use reqwest::Method;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::client::{Client, PATIENCE};
use super::transcript::{Frames, Transcript};

/// Pause before a reader reconnects; shorter than a browser's, to save time.
const PAUSE: Duration = Duration::from_millis(30);
/// A stream sends something at least this often.
const SILENCE: Duration = Duration::from_secs(20);

/// A reader, which disconnects when it is dropped.
pub struct Reader {
    pub name: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    transcript: Mutex<Transcript>,
    changed: watch::Sender<()>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Transcript> {
        self.transcript.lock()
    }
}

impl Reader {
    /// Opens `path` and reads it to its end, across restarts of the server.
    pub fn open(client: &Client, path: String) -> Self {
        let shared = Arc::new(Shared {
            transcript: Mutex::default(),
            changed: watch::Sender::new(()),
        });
        let task = tokio::spawn(read(client.clone(), path.clone(), Arc::clone(&shared)));
        Self {
            name: path,
            shared,
            task,
        }
    }

    /// Calls `look` with what it has received so far.
    pub fn look<T>(&self, look: impl FnOnce(&Transcript) -> T) -> T {
        look(&self.shared.lock())
    }

    /// Waits until it has received what is wanted.
    pub async fn until(&self, what: &str, found: impl Fn(&Transcript) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        let deadline = Instant::now() + PATIENCE;
        while !self.look(&found) {
            let waited = tokio::time::timeout_at(deadline, changed.changed()).await;
            assert!(
                waited.is_ok(),
                "{} never got {what}: {:#?}",
                self.name,
                self.shared.lock()
            );
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(client: Client, path: String, shared: Arc<Shared>) {
    let mut first = true;
    loop {
        if !first {
            tokio::time::sleep(PAUSE).await;
        }
        let position = shared.lock().position.clone();
        let mut request = client.request(Method::GET, &path).await;
        if let Some(position) = &position {
            request = request.header("last-event-id", position);
        }
        let Ok(mut answer) = request.send().await else {
            first = false;
            continue;
        };
        first = false;
        match answer.status().as_u16() {
            200 => shared.lock().connections += 1,
            // Nothing follows.
            204 => return,
            503 => continue,
            404 => {
                shared.lock().gone = true;
                shared.changed.send_replace(());
                return;
            }
            status => {
                let body = answer.text().await.unwrap_or_default();
                let fault = format!("{path} at {position:?} was answered {status}: {body}");
                shared.lock().faults.push(fault);
                shared.changed.send_replace(());
                return;
            }
        }
        // An incomplete frame of a broken connection is not an event.
        let mut frames = Frames::default();
        loop {
            match tokio::time::timeout(SILENCE, answer.chunk()).await {
                Ok(Ok(Some(bytes))) => {
                    frames.push(&bytes, |id, name, data| shared.lock().take(id, name, data));
                    shared.changed.send_replace(());
                }
                Ok(Ok(None) | Err(_)) => break,
                Err(_) => {
                    shared.lock().faults.push(format!("{path} was silent for {SILENCE:?}"));
                    break;
                }
            }
        }
    }
}
