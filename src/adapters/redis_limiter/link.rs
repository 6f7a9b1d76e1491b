//! The connection to Redis. While it is lost nobody waits for it: one task looks for it, everybody else is told at once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult, ScriptInvocation};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::script::{self, Reply};

/// A connection that was lost sooner than this many looks after it was found is not looked for at once: what comes and goes
/// is not to fill the log.
const SETTLED: u32 = 10;

/// The connection.
pub(super) struct Link {
    client: Client,
    prefix: String,
    patience: Duration,
    pause: Duration,
    state: watch::Sender<State>,
}

#[derive(Clone)]
enum State {
    /// Nothing is known yet; whoever asks waits for the first answer.
    Starting,
    Up(MultiplexedConnection, Instant),
    Down(Instant),
}

/// Redis does not answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Away {
    /// Since when.
    pub since: Instant,
    /// Whether the request has left, so that it may yet be done.
    pub sent: bool,
}

impl Link {
    /// Nothing is asked before [`Link::keep`] runs.
    pub fn new(url: &str, prefix: &str, patience: Duration, pause: Duration) -> RedisResult<Self> {
        Ok(Self {
            client: Client::open(url)?,
            prefix: prefix.to_owned(),
            patience,
            pause,
            state: watch::Sender::new(State::Starting),
        })
    }

    /// Tells whether Redis answers.
    pub fn is_up(&self) -> bool {
        matches!(&*self.state.borrow(), State::Up(..))
    }

    /// Returns when it does.
    pub async fn up(&self) {
        // The sender is this struct's own: it does not go away meanwhile.
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| matches!(state, State::Up(..)))
            .await;
    }

    /// Runs the script.
    pub async fn ask(&self, call: &ScriptInvocation<'_>) -> Result<Reply, Away> {
        let mut states = self.state.subscribe();
        let known = states.wait_for(|state| !matches!(state, State::Starting)).await;
        let state = known.map(|state| state.clone()).unwrap_or(State::Starting);
        let (mut connection, opened) = match state {
            State::Up(connection, opened) => (connection, opened),
            State::Down(since) => return Err(Away { since, sent: false }),
            State::Starting => {
                return Err(Away {
                    since: Instant::now(),
                    sent: false,
                });
            }
        };
        let why = match timeout(self.patience, call.invoke_async::<Vec<String>>(&mut connection)).await {
            Ok(Ok(answer)) => match Reply::read(&answer) {
                Some(reply) => return Ok(reply),
                None => "its answer makes no sense".to_owned(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        Err(Away {
            since: self.lost(&why, Some(opened)),
            sent: true,
        })
    }

    /// Deletes all keys that match a pattern, in steps. Returns how many.
    pub async fn delete_all(&self, pattern: &str) -> Result<u64, String> {
        let State::Up(mut connection, _) = self.state.borrow().clone() else {
            return Err("the store of the limits does not answer".to_owned());
        };
        let (mut cursor, mut deleted) = (0_u64, 0_u64);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(500);
            let step = async {
                let (next, keys): (u64, Vec<String>) = scan.query_async(&mut connection).await?;
                let mut gone = 0_u64;
                if !keys.is_empty() {
                    gone = redis::cmd("DEL").arg(keys).query_async(&mut connection).await?;
                }
                RedisResult::Ok((next, gone))
            };
            let (next, gone) = match timeout(self.patience * 3, step).await {
                Ok(Ok(step)) => step,
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err("the store of the limits did not answer in time".to_owned()),
            };
            deleted += gone;
            if next == 0 {
                return Ok(deleted);
            }
            cursor = next;
        }
    }

    /// Notes that it is gone; returns since when. What an earlier connection still had to say does not end this one.
    fn lost(&self, why: &str, opened: Option<Instant>) -> Instant {
        let mut since = Instant::now();
        let is_news = self.state.send_if_modified(|state| match state {
            State::Down(at) => {
                since = *at;
                false
            }
            State::Up(_, other) if Some(*other) != opened => false,
            State::Up(..) | State::Starting => {
                *state = State::Down(since);
                true
            }
        });
        if is_news {
            gauge!("copilotd_limits_store_up").set(0.0);
            tracing::warn!(
                error = why,
                "the store of the limits does not answer: budgets are refused, rates run on a share of this process"
            );
        }
        since
    }

    /// Looks for it whenever it is lost. Ends only with its task.
    pub async fn keep(self: Arc<Self>) {
        let mut states = self.state.subscribe();
        loop {
            // Connecting, signing on and the script: each within its own patience.
            let connection = match timeout(self.patience * 3, self.connect()).await {
                Ok(Ok(connection)) => connection,
                failed => {
                    let why = failed.map_or("no answer in time".to_owned(), |failed| match failed {
                        Ok(_) => String::new(),
                        Err(error) => error.to_string(),
                    });
                    self.lost(&why, None);
                    sleep(self.pause).await;
                    continue;
                }
            };
            let opened = Instant::now();
            let before = self.state.send_replace(State::Up(connection, opened));
            gauge!("copilotd_limits_store_up").set(1.0);
            if let State::Down(since) = before {
                let seconds = since.elapsed().as_secs_f64();
                tracing::info!(seconds, "the store of the limits answers again");
            }
            drop(states.wait_for(|state| matches!(state, State::Down(_))).await);
            if opened.elapsed() < self.pause * SETTLED {
                sleep(self.pause).await;
            }
        }
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.patience))
            .set_response_timeout(Some(self.patience));
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        script::probe(&self.prefix)
            .invoke_async::<Vec<String>>(&mut connection)
            .await?;
        Ok(connection)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address may hold a password.
        f.debug_struct("Link")
            .field("is_up", &self.is_up())
            .finish_non_exhaustive()
    }
}
