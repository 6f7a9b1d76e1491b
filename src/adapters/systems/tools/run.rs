//! Runs one call: finds the tool, enforces its timeout, adds the vendor's rate limit figures, and traces it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use copilotd_actors::ports::{LookUp, RateHint, ToolError, ToolErrorKind, ToolReply, ToolRequest};
use parking_lot::Mutex;
use tracing::{Instrument, Span, field};

use super::toolset::SystemTools;
use super::{Tool, failed, rate, refused};

/// What a call learns on its way.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    rate: Mutex<RateHint>,
    effect_sent: AtomicBool,
}

impl Progress {
    /// Records what an answer's headers said.
    pub fn record_rate(&self, hint: RateHint) {
        let mut rate = self.rate.lock();
        *rate = rate::newer(*rate, hint);
    }

    /// Records that from now on something may have been changed at the vendor. Must be called before the bytes are
    /// sent.
    pub fn mark_effect_sent(&self) {
        self.effect_sent.store(true, Ordering::SeqCst);
    }

    fn rate(&self) -> RateHint {
        *self.rate.lock()
    }
}

/// What a system gives to each call.
pub(crate) trait Session: Send + Sync {
    /// Name of the vendor, for messages.
    const VENDOR: &'static str;

    /// What the call has learned so far.
    fn progress(&self) -> &Progress;
}

/// Runs `request`.
pub(crate) async fn call<S: Session>(
    tools: &SystemTools<S>,
    session: &S,
    request: &ToolRequest,
) -> Result<ToolReply, ToolError> {
    let tool = find(tools, request)?;
    let span = span(request);
    let outcome = in_time::<S, _>(request.timeout, tool.call(session, request))
        .instrument(span.clone())
        .await;
    let rate = session.progress().rate();
    match outcome {
        Ok(result) => Ok(ToolReply { result, rate }),
        Err(error) => {
            let changes = tools.changes_something(&request.tool);
            let error = named(settle(error, changes, session.progress()), tools);
            record(&span, &error);
            Err(error)
        }
    }
}

/// Looks for the effect of an earlier call.
pub(crate) async fn look_up<S: Session>(
    tools: &SystemTools<S>,
    session: &S,
    request: &ToolRequest,
) -> Result<LookUp, ToolError> {
    let tool = find(tools, request)?;
    let span = span(request);
    span.record("copilotd.look_up", true);
    let outcome = in_time::<S, _>(request.timeout, tool.look_up(session, request))
        .instrument(span.clone())
        .await;
    outcome.map_err(|mut error| {
        error.rate = session.progress().rate();
        record(&span, &error);
        named(error, tools)
    })
}

fn find<S: Sync>(tools: &SystemTools<S>, request: &ToolRequest) -> Result<&'static dyn Tool<S>, ToolError> {
    tools
        .find(&request.tool)
        .ok_or_else(|| refused(format!("there is no tool {:?}", request.tool)))
}

/// A message may name another tool of the system, for the model to call.
fn named<S: Sync>(mut error: ToolError, tools: &SystemTools<S>) -> ToolError {
    error.message = tools.renamed(error.message);
    error
}

async fn in_time<S: Session, T>(
    limit: Duration,
    work: impl Future<Output = Result<T, ToolError>>,
) -> Result<T, ToolError> {
    match tokio::time::timeout(limit, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(failed(
            ToolErrorKind::OutcomeUnknown,
            format!("{} did not answer within {} s", S::VENDOR, limit.as_secs_f64()),
        )),
    }
}

/// A changing call that failed before its change was sent has certainly changed nothing.
fn settle(mut error: ToolError, changes: bool, progress: &Progress) -> ToolError {
    if error.kind == ToolErrorKind::OutcomeUnknown && changes && !progress.effect_sent.load(Ordering::SeqCst) {
        error.kind = ToolErrorKind::Unreachable;
    }
    error.rate = progress.rate();
    error
}

/// GenAI semantic conventions; neither arguments nor results are recorded.
fn span(request: &ToolRequest) -> Span {
    tracing::info_span!(
        "execute_tool",
        otel.name = format!("execute_tool {}", request.tool),
        otel.status_code = field::Empty,
        gen_ai.operation.name = "execute_tool",
        gen_ai.tool.name = request.tool,
        gen_ai.tool.type = "extension",
        gen_ai.tool.call.id = %request.call,
        copilotd.tenant = %request.scope.tenant(),
        copilotd.look_up = field::Empty,
        error.type = field::Empty,
    )
}

fn record(span: &Span, error: &ToolError) {
    let kind = match error.kind {
        ToolErrorKind::Refused => "refused",
        ToolErrorKind::RateLimited => "rate_limited",
        ToolErrorKind::Unreachable => "unreachable",
        ToolErrorKind::OutcomeUnknown => "in_doubt",
    };
    span.record("error.type", kind);
    span.record("otel.status_code", "ERROR");
}
