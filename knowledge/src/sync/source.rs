//! The actor of one source: runs, and runs again after its interval.

use std::sync::Arc;

use metrics::counter;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::run::{Memory, Run, Stopped};
use super::status::{Activity, SourceBook};
use super::{Bounds, Spec};
use crate::library::Library;

/// See the module. Killing it at any moment is safe: what it has not finished is done again.
pub(super) struct Source {
    pub(super) library: Arc<Library>,
    pub(super) book: SourceBook,
    pub(super) bounds: Bounds,
    pub(super) spec: Spec,
}

/// Messages to [`Source`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Msg {
    /// A timer: read what changed.
    Run,
}

/// State of [`Source`].
#[derive(Default)]
pub(super) struct State {
    memory: Memory,
    /// Whether its documents were counted since it started.
    is_counted: bool,
}

impl Source {
    async fn run(&self, state: &mut State) {
        let (tenant, name) = (self.spec.scope.tenant(), self.spec.name.as_str());
        let mut run = Run::new(self, &mut state.memory);
        let result = match state.is_counted {
            true => Ok(()),
            false => run.count().await,
        };
        state.is_counted |= result.is_ok();
        let result = match result {
            Ok(()) => run.all().await,
            failed => failed,
        };
        let now = self.library.clock.now();
        let (outcome, error) = match result {
            Ok(()) => ("completed", None),
            Err(Stopped(error)) => {
                tracing::warn!(%tenant, source = name, error, "the sync of a source was interrupted; it continues later");
                ("failed", Some(error))
            }
        };
        counter!("copilotd_source_runs_total", "outcome" => outcome).increment(1);
        self.book.update(tenant, name, |status| {
            status.activity = match error {
                None => Activity::UpToDate,
                Some(_) => Activity::Failed,
            };
            status.last_run_at = Some(now);
            status.last_error = error;
        });
    }
}

impl Actor for Source {
    type Msg = Msg;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, me: ActorRef<Msg>, (): ()) -> Result<State, ActorProcessingErr> {
        let (tenant, name) = (self.spec.scope.tenant(), self.spec.name.as_str());
        self.book
            .update(tenant, name, |status| status.kind = self.spec.feed.kind());
        me.cast(Msg::Run)?;
        Ok(State::default())
    }

    async fn handle(&self, me: ActorRef<Msg>, Msg::Run: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let (tenant, name) = (self.spec.scope.tenant(), self.spec.name.as_str());
        self.book
            .update(tenant, name, |status| status.activity = Activity::Running);
        self.run(state).await;
        me.send_after(self.spec.interval, || Msg::Run);
        Ok(())
    }
}
