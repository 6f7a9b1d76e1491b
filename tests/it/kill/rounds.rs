//! Kills at random moments, with many turns running.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::setting;
use crate::store::mongo::TestDatabase;
use crate::support::live::client::Client;
use crate::support::live::orders;
use crate::support::live::server::{Server, Store};
use crate::support::live::stage::perform;
use crate::support::live::verdict::verdict;
use crate::support::live::world::World;

/// Concurrent copies of the mixed workload; two have more than fifty turns.
const COPIES: usize = 2;

/// A process that cannot renew its lease in time exits, and nobody restarts it here. So this is longer than the
/// stand-in's slowest write on a busy machine.
const LEASE_S: u64 = 12;

/// Kills the server `rounds` times while one workload after the other runs.
async fn rounds(store: Store, rounds: u64) {
    let seed = setting("COPILOTD_KILL_SEED", rand::rng().random());
    println!("COPILOTD_KILL_SEED={seed} COPILOTD_KILL_ROUNDS={rounds}");
    let mut random = StdRng::seed_from_u64(seed);
    let scratch = tempfile::TempDir::new().unwrap();
    let world = World::start(scratch.path()).await;
    let mut server = Server::new(&world, store);
    server.start(&[]).await;
    let client = Client::new(server.address(), "ada");
    for round in 0..rounds {
        let orders = (0..COPIES)
            .flat_map(|copy| orders::mixed(&format!("r{round}c{copy}")))
            .collect();
        let moment = Duration::from_millis(random.random_range(50..3000));
        // The orders continue while the server is down, so that calls they hold at Zendesk are released in time.
        let kill = async {
            tokio::time::sleep(moment).await;
            server.kill().await;
            server.start(&[]).await;
        };
        let (talks, ()) = tokio::join!(perform(&client, &world, orders), kill);
        let summary = verdict(&client, &world, &talks, true).await;
        println!("round {round}: killed after {moment:?}, {summary:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite() {
    rounds(Store::Sqlite, setting("COPILOTD_KILL_ROUNDS", 4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let store = Store::Mongo {
        url: database.url.clone(),
        database: database.name.clone(),
        lease_s: LEASE_S,
    };
    // A restart waits for the lease.
    rounds(store, setting("COPILOTD_KILL_ROUNDS", 3)).await;
}
