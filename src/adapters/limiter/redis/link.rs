//! The connection to Redis. While it is lost nobody waits for it: one task reconnects, everybody else gets an error at
//! once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult, ScriptInvocation};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::script::{self, Reply};

/// A connection lost less than this many pauses after it was opened is not reopened at once, so that a flapping
/// connection does not fill the log.
const SETTLED: u32 = 10;

pub(super) struct Link {
    client: Client,
    prefix: String,
    request_timeout: Duration,
    pause: Duration,
    state: watch::Sender<State>,
}

#[derive(Clone)]
enum State {
    /// The first connection attempt is running; callers wait for its result.
    Starting,
    Up(MultiplexedConnection, Instant),
    Down(Instant),
}

/// Redis does not answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct RedisUnavailable {
    pub since: Instant,
    /// Whether the request was sent, so that Redis may still execute it.
    pub sent: bool,
}

impl Link {
    /// Does not connect before [`Link::run`] runs.
    pub fn new(url: &str, prefix: &str, request_timeout: Duration, pause: Duration) -> RedisResult<Self> {
        Ok(Self {
            client: Client::open(url)?,
            prefix: prefix.to_owned(),
            request_timeout,
            pause,
            state: watch::Sender::new(State::Starting),
        })
    }

    /// Returns whether Redis answers.
    pub fn is_up(&self) -> bool {
        matches!(&*self.state.borrow(), State::Up(..))
    }

    /// Waits until Redis answers.
    pub async fn up(&self) {
        // The sender is owned by this struct and outlives the wait.
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| matches!(state, State::Up(..)))
            .await;
    }

    /// Runs the script.
    pub async fn ask(&self, call: &ScriptInvocation<'_>) -> Result<Reply, RedisUnavailable> {
        let mut states = self.state.subscribe();
        let known = states.wait_for(|state| !matches!(state, State::Starting)).await;
        let state = known.map(|state| state.clone()).unwrap_or(State::Starting);
        let (mut connection, opened) = match state {
            State::Up(connection, opened) => (connection, opened),
            State::Down(since) => return Err(RedisUnavailable { since, sent: false }),
            State::Starting => {
                return Err(RedisUnavailable {
                    since: Instant::now(),
                    sent: false,
                });
            }
        };
        let why = match timeout(self.request_timeout, call.invoke_async::<Vec<String>>(&mut connection)).await {
            Ok(Ok(answer)) => match Reply::read(&answer) {
                Some(reply) => return Ok(reply),
                None => "unexpected answer".to_owned(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        Err(RedisUnavailable {
            since: self.lost(&why, Some(opened)),
            sent: true,
        })
    }

    /// Deletes all keys that match a pattern, in steps. Returns how many.
    pub async fn delete_all(&self, pattern: &str) -> Result<u64, String> {
        let State::Up(mut connection, _) = self.state.borrow().clone() else {
            return Err("the limits store (Redis) does not answer".to_owned());
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
            let (next, gone) = match timeout(self.request_timeout * 3, step).await {
                Ok(Ok(step)) => step,
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err("the limits store (Redis) did not answer in time".to_owned()),
            };
            deleted += gone;
            if next == 0 {
                return Ok(deleted);
            }
            cursor = next;
        }
    }

    /// Records that the connection is lost; returns since when. A failure of an earlier connection does not affect the
    /// current one.
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
                "limits store (Redis) does not answer; refusing calls subject to a budget, enforcing limits.local_share of each rate limit"
            );
        }
        since
    }

    /// Reconnects whenever the connection is lost. Ends only with its task.
    pub async fn run(self: Arc<Self>) {
        let mut states = self.state.subscribe();
        loop {
            // Connecting, authenticating and the script: each within its own timeout.
            let connection = match timeout(self.request_timeout * 3, self.connect()).await {
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
                tracing::info!(seconds, "limits store (Redis) answers again");
            }
            drop(states.wait_for(|state| matches!(state, State::Down(_))).await);
            if opened.elapsed() < self.pause * SETTLED {
                sleep(self.pause).await;
            }
        }
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.request_timeout))
            .set_response_timeout(Some(self.request_timeout));
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
        // The address may contain a password.
        f.debug_struct("Link")
            .field("is_up", &self.is_up())
            .finish_non_exhaustive()
    }
}
