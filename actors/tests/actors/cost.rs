//! What a token costs: it enters no span and touches no metric, whatever is subscribed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use copilotd_actors::domain::event::Event;
use copilotd_actors::fakes::model::says;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tracing::level_filters::LevelFilter;
use tracing::{Id, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::support::World;

/// Counts span entries, events and metric updates.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicUsize>);

impl Counting {
    fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl<S: Subscriber> Layer<S> for Counting {
    fn on_enter(&self, _: &Id, _: Context<'_, S>) {
        self.one();
    }

    fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
        self.one();
    }
}

impl Recorder for Counting {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        self.one();
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        self.one();
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        self.one();
        Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_enters_no_span_and_touches_no_metric() {
    let (spans, metrics) = (Counting::default(), Counting::default());
    // The product's filters take no spans of the actor framework either.
    let ours = Targets::new().with_target("copilotd", LevelFilter::TRACE);
    let subscriber = tracing_subscriber::registry().with(spans.clone().with_filter(ours));
    let _subscriber = tracing::subscriber::set_default(subscriber);
    let _recorder = metrics::set_default_local_recorder(&metrics);
    let world = World::new().await;
    let mut costs = Vec::new();
    for pieces in [10, 1_000] {
        let prompt = format!("{pieces} pieces");
        let script = says(&vec!["word "; pieces], Duration::from_millis(20));
        world.model.on(&prompt, &[script]);
        let id = world.create().await;
        let before = [&spans, &metrics].map(|counting| counting.0.load(Ordering::Relaxed));
        // Like an HTTP request: messages sent from here carry its span.
        let turn = {
            use tracing::Instrument as _;
            let request = tracing::info_span!(target: "copilotd", "request");
            world.submit(id, &prompt).instrument(request).await
        };
        assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
        let after = [&spans, &metrics].map(|counting| counting.0.load(Ordering::Relaxed));
        costs.push([after[0] - before[0], after[1] - before[1]]);
    }
    let (short, long) = (costs[0], costs[1]);
    assert!(short[0] > 5 && short[1] > 5, "the counters saw nothing: {costs:?}");
    // The reconciler and timers run now and then while the longer answer is written.
    assert!(long[0] < short[0] + 20 && long[1] < short[1] + 20, "{costs:?}");
}
