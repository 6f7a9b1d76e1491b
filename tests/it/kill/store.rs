//! The store fails too: it dies during an append, or is cut off. Elections cannot be tested on the stand-in; the proxy
//! simulates what a client sees of one: lost connections and no answers.

use std::path::PathBuf;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;

use super::setting;
use crate::support::live::client::Client;
use crate::support::live::orders;
use crate::support::live::server::{Server, Store};
use crate::support::live::stage::{Talk, perform};
use crate::support::live::verdict::verdict;
use crate::support::live::world::World;
use crate::support::proxy::{Mode, Proxy};
use crate::support::secantus;

/// Longer than any outage of these tests, so that the process keeps its lease.
const LEASE_S: u64 = 20;

/// A MongoDB server of the test's own, which it may kill.
struct Database {
    binary: PathBuf,
    data: TempDir,
    port: u16,
    server: Option<secantus::Server>,
}

impl Database {
    async fn start() -> Option<Self> {
        let mut database = Self {
            binary: secantus::binary()?,
            data: TempDir::new().unwrap(),
            port: secantus::free_port(),
            server: None,
        };
        database.again().await;
        Some(database)
    }

    async fn again(&mut self) {
        let server = secantus::Server::start(&self.binary, self.data.path(), self.port, true).await;
        self.server = Some(server);
    }

    fn kill(&mut self) {
        self.server.take().expect("it lives").kill();
    }

    fn url(&self) -> String {
        self.server.as_ref().expect("it lives").url()
    }
}

fn store(url: String) -> Store {
    Store::Mongo {
        url,
        database: "copilotd".to_owned(),
        lease_s: LEASE_S,
    }
}

/// Runs orders while `trouble` goes on, until both end.
async fn through(client: &Client, world: &World, copy: &str, trouble: impl Future<Output = ()>) -> Vec<Talk> {
    let (talks, ()) = tokio::join!(perform(client, world, orders::mixed(copy)), trouble);
    talks
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_killed_in_mid_append_loses_nothing() {
    let Some(mut database) = Database::start().await else {
        return;
    };
    let seed = setting("COPILOTD_KILL_SEED", rand::rng().random());
    println!("COPILOTD_KILL_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let scratch = TempDir::new().unwrap();
    let world = World::start(scratch.path()).await;
    let mut server = Server::new(&world, store(database.url()));
    server.start(&[]).await;
    let client = Client::new(server.address(), "ada");
    for round in 0..3 {
        let moments = [300..1000, 500..2000].map(|range| Duration::from_millis(random.random_range(range)));
        let trouble = async {
            for moment in moments {
                tokio::time::sleep(moment).await;
                database.kill();
                database.again().await;
            }
        };
        let talks = through(&client, &world, &format!("k{round}"), trouble).await;
        let summary = verdict(&client, &world, &talks, false).await;
        println!("round {round}: store killed after {moments:?}, {summary:?}");
    }
    // Everything acknowledged in the last round is still there for the next process after both have died at once. The
    // orders continue meanwhile: Zendesk releases held calls in time, although the next process has to wait for the
    // lease.
    let moment = Duration::from_millis(random.random_range(300..800));
    let trouble = async {
        tokio::time::sleep(moment).await;
        database.kill();
        server.kill().await;
        database.again().await;
        server.start(&[]).await;
    };
    let talks = through(&client, &world, "both", trouble).await;
    println!("both killed: {:?}", verdict(&client, &world, &talks, false).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_slow_silent_or_cut_off_loses_nothing() {
    let Some(database) = Database::start().await else {
        return;
    };
    let proxy = Proxy::to(database.server.as_ref().unwrap().address).await;
    let scratch = TempDir::new().unwrap();
    let world = World::start(scratch.path()).await;
    let mut server = Server::new(&world, store(secantus::url(proxy.address)));
    server.start(&[]).await;
    let client = Client::new(server.address(), "ada");
    let troubles = [
        ("delayed", Mode::Delayed(Duration::from_millis(150)), 2000),
        ("silent", Mode::Paused, 2500),
        ("answers lost", Mode::AnswersLost, 700),
        ("cut", Mode::Cut, 1500),
    ];
    for (n, (name, mode, ms)) in troubles.into_iter().enumerate() {
        let trouble = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            proxy.set(mode);
            tokio::time::sleep(Duration::from_millis(ms)).await;
            proxy.set(Mode::Open);
        };
        let talks = through(&client, &world, &format!("p{n}"), trouble).await;
        println!("{name}: {:?}", verdict(&client, &world, &talks, false).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_leaves_the_database_to_the_next_process_at_once() {
    let Some(database) = Database::start().await else {
        return;
    };
    let scratch = TempDir::new().unwrap();
    let world = World::start(scratch.path()).await;
    let store = Store::Mongo {
        url: database.url(),
        database: "copilotd".to_owned(),
        // A start that waited for it would time out.
        lease_s: 300,
    };
    let mut server = Server::new(&world, store);
    for _ in 0..3 {
        server.start(&[]).await;
        server.terminate().await;
        assert_eq!(server.ended().await, 0, "{}", server.log());
    }
    assert!(
        !server.log().contains("another process holds the database lease"),
        "{}",
        server.log()
    );
}
