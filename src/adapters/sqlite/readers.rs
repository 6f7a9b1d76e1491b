//! Connections that read, lent one at a time to blocking threads.

use std::path::Path;
use std::sync::Arc;

use copilotd_actors::fairness::share;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::failure::Failure;
use super::{OpenError, schema};

/// A small pool. Invariant: there are as many permits as connections, so a permit's holder always finds a connection.
#[derive(Debug)]
pub(crate) struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// Opens `count` connections.
    pub(crate) fn open(path: &Path, count: usize) -> Result<Self, OpenError> {
        let idle: Vec<Connection> = (0..count)
            .map(|_| schema::open_reader(path))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            idle: Arc::new(Mutex::new(idle)),
            permits: Arc::new(Semaphore::new(count)),
        })
    }

    /// Runs `query` on a blocking thread. Each statement sees the database as of one moment.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| Failure::Ended)?;
        let idle = Arc::clone(&self.idle);
        // The reading thread takes as much processor time from the serving threads as serving does.
        let share = share::current();
        let answer = tokio::task::spawn_blocking(move || {
            let connection = idle.lock().pop().ok_or(Failure::Ended)?;
            // The connection is returned before the permit: locals are dropped in reverse order.
            let _permit = permit;
            let lent = PooledConnection {
                connection: Some(connection),
                idle,
            };
            let begun = Instant::now();
            let found = query(lent.connection.as_ref().ok_or(Failure::Ended)?);
            if let Some(share) = share {
                share.charge(begun.elapsed());
            }
            found
        });
        answer.await.map_err(|_| Failure::Ended)?
    }
}

/// A connection that is returned to the pool whatever happens to its query.
struct PooledConnection {
    connection: Option<Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        self.idle.lock().extend(self.connection.take());
    }
}
