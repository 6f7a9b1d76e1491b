//! Many concurrent callers, some of which fail.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use copilotd_actors::domain::usage::Usage;
use copilotd_gateway::limit::{Demand, LimitName, LimitRefusal, Limits, Reservation};
use rand::RngExt as _;
use tokio::task::JoinSet;

use super::{LimiterFixture, demand, exceeded, of_tenant, scope, subjects};

const LIMIT: u64 = 60_000;
/// Ten for each token, and a budget that nobody can use up.
const BUDGET: u64 = LIMIT * 20;
const LARGEST: u64 = 150;
const PLACES: u64 = 200;

#[derive(Default)]
struct Counts {
    granted: AtomicU64,
    /// Reservations that are not settled yet.
    open: AtomicU64,
    /// Calls in flight.
    running: AtomicU64,
    most: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_at_once_stay_within_the_limit_and_use_it() {
    let limits = of_tenant(Limits {
        tokens_per_minute: Some(LIMIT),
        concurrent_calls: Some(PLACES),
        usd_per_day: Some(BUDGET),
        ..Limits::default()
    });
    for world in LimiterFixture::both(limits).await {
        let (world, counts) = (Arc::new(world), Arc::new(Counts::default()));
        let mut callers = JoinSet::new();
        for n in 0..1_000 {
            callers.spawn(call(Arc::clone(&world), Arc::clone(&counts), format!("user{}", n % 50)));
        }
        while let Some(done) = callers.join_next().await {
            done.unwrap();
        }
        let granted = counts.granted.load(SeqCst);
        assert!(granted <= LIMIT + LARGEST, "{granted} of {LIMIT}");
        assert!(granted * 100 >= LIMIT * 95, "only {granted} of {LIMIT} were used");
        assert!(counts.most.load(SeqCst) <= PLACES);
        // Everything is settled: after a minute the rate is full again, all permits are free, and the budget holds
        // exactly what was spent.
        world.watch.pass(60_000);
        let all = Demand {
            tokens: LIMIT,
            calls: PLACES,
            ..Demand::default()
        };
        let lease = world.reserve("ada", all).await.unwrap();
        assert_eq!(lease.standings[0].remaining, 0);
        world.settle(lease, 0, 0).await;
        let dear = Demand {
            cost: BUDGET,
            ..Demand::default()
        };
        let refused = exceeded(world.reserve("ada", dear).await);
        assert_eq!(
            (refused.name, refused.state.remaining),
            (LimitName::UsdPerDay, BUDGET - granted * 10)
        );
    }
}

async fn call(world: Arc<LimiterFixture>, counts: Arc<Counts>, user: String) {
    loop {
        let want = rand::rng().random_range(50..LARGEST);
        let lease = match world.limiter.reserve(&scope(), subjects(&user), demand(want)).await {
            Ok(lease) => lease,
            Err(LimitRefusal::LimitExceeded(refused)) if refused.name == LimitName::Calls => {
                tokio::task::yield_now().await;
                continue;
            }
            Err(LimitRefusal::LimitExceeded(_)) => {
                // A running call may still give something back; when none is running, this is the end.
                tokio::task::yield_now().await;
                let nobody = counts.open.load(SeqCst) == 0;
                world.limiter.settled().await;
                let again = world.limiter.reserve(&scope(), subjects(&user), demand(want)).await;
                match again {
                    Ok(lease) => lease,
                    Err(_) if nobody => return,
                    Err(_) => continue,
                }
            }
            Err(refused) => panic!("{refused:?}"),
        };
        counts.open.fetch_add(1, SeqCst);
        let running = counts.running.fetch_add(1, SeqCst) + 1;
        counts.most.fetch_max(running, SeqCst);
        let reservation = Reservation::new(Arc::clone(&world.limiter), lease);
        tokio::task::yield_now().await;
        // Some fail at the start, some mid-stream.
        let used = match rand::rng().random_range(0..5) {
            0 => 0,
            1 => want / 2,
            _ => want,
        };
        reservation.spend(&Usage {
            prompt_tokens: used,
            cost: used * 10,
            ..Usage::default()
        });
        counts.granted.fetch_add(used, SeqCst);
        counts.running.fetch_sub(1, SeqCst);
        drop(reservation);
        counts.open.fetch_sub(1, SeqCst);
    }
}
