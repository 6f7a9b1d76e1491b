//! Embeddings of tenants' documents, and of the questions that search them, by a model of a provider. Each request is an
//! ordinary call of the tenant whose text it is: with its model access and its keys, within its limits, charged to it.
//!
//! Invariants: no text is sent for a tenant that may not use the model. Vectors have the space of the model that was
//! configured and its number of dimensions; an answer from another model, or with another number, is refused whole. While a
//! question is on its way no further batch of the background starts, unless that takes long.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::compute;
use copilotd_actors::domain::hash::fingerprint;
use copilotd_actors::domain::ids::UserId;
use copilotd_actors::ports::{EmbedError, EmbedRequest, Embedder, Purpose, Space, Urgency, Vector};
use copilotd_actors::tenancy::TenantScope;
use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::circuit::Circuit;
use super::plan::Planner;
use super::route_embedder::read;
use crate::error::{GatewayError, GatewayErrorKind, LimitState};
use crate::request::call::{self, Caller};
use crate::request::embed::{EmbedBody, EmbedCall};
use crate::target::TargetName;

/// Longest time for the vectors of a question, less than a search waits for them: the call then ends by itself.
const QUESTION_TIMEOUT: Duration = Duration::from_millis(1_700);
/// Time by which a call may end too late.
const SLACK: Duration = Duration::from_millis(200);
/// Longest time for a batch of the background.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time that a batch of the background waits for questions to be answered: a busy server must not keep documents
/// from being embedded.
const YIELD_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest pause of the background for the sake of a tenant's rate limit.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Batches of the background at the same time, of all tenants.
const BACKGROUND_CALLS: usize = 4;
/// Batches of one question at the same time.
const QUESTION_CALLS: usize = 4;
/// A text that the model refuses is shortened to half down to this many bytes: it may be longer than the model reads.
const SHORTEST: usize = 512;
/// Cost of parsing a byte of an answer, in the unit of [`compute`].
const PARSE_COST_PER_BYTE: usize = 1;
/// Whom calls for documents are listed under in a tenant's usage.
const USER: &str = "copilotd:documents";

/// A provider's model for documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentModel {
    /// The route, whose only target is `target`.
    pub route: String,
    /// The target.
    pub target: TargetName,
    /// Numbers of a vector.
    pub dimensions: usize,
    /// Whether the model is asked for vectors of that many numbers, because it would make longer ones.
    pub is_shortened: bool,
    /// How questions are sent.
    pub query: TextForm,
    /// How passages are sent.
    pub passage: TextForm,
    /// Most texts of one request.
    pub batch: usize,
}

/// How a text of one kind is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextForm {
    /// What stands before the text.
    pub prefix: String,
    /// The request's `input_type`.
    pub input_type: Option<String>,
}

impl DocumentModel {
    /// Returns the space of its vectors: provider, model and number of dimensions, and a hash of how passages are sent if
    /// that is not as they are.
    pub fn space(&self) -> Space {
        let mut space = format!("{}@{}", self.target, self.dimensions);
        if self.is_shortened || self.passage != TextForm::default() {
            let shortened = if self.is_shortened { "shortened" } else { "" };
            let input_type = self.passage.input_type.as_deref().unwrap_or_default();
            let print = fingerprint(&[shortened, &self.passage.prefix, input_type]);
            // Writing to a string does not fail.
            let _ = write!(space, "+{}", hex::encode(&print[..4]));
        }
        space.into()
    }

    fn form(&self, purpose: Purpose) -> &TextForm {
        match purpose {
            Purpose::Query => &self.query,
            Purpose::Passage => &self.passage,
        }
    }
}

/// The model as tenants use it.
#[derive(Debug, Clone)]
pub(super) struct DocumentEmbedder {
    planner: Planner,
    model: Arc<DocumentModel>,
    space: Space,
    shared: Arc<SharedState>,
    /// Without one every request is denied.
    scope: Option<TenantScope>,
}

/// What the requests of all tenants share.
#[derive(Debug)]
struct SharedState {
    circuit: Circuit,
    /// Questions on their way.
    questions: watch::Sender<usize>,
    background: Semaphore,
}

/// Counts a question while it is on its way.
struct Question<'a>(&'a watch::Sender<usize>);

impl<'a> Question<'a> {
    fn begin(questions: &'a watch::Sender<usize>) -> Self {
        questions.send_modify(|count| *count += 1);
        Self(questions)
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Why a batch has no vectors.
enum Refused {
    /// Fewer or shorter texts may be accepted; otherwise this is the error.
    Texts(EmbedError),
    /// Anything else.
    Other(EmbedError),
}

/// The part of a request that is the same for all its batches.
#[derive(Clone, Copy)]
struct Batch<'a> {
    scope: &'a TenantScope,
    purpose: Purpose,
    urgency: Urgency,
    deadline: Instant,
}

impl DocumentEmbedder {
    pub(super) fn new(planner: &Planner, model: DocumentModel) -> Self {
        Self {
            planner: planner.clone(),
            space: model.space(),
            model: Arc::new(model),
            shared: Arc::new(SharedState {
                circuit: Circuit::default(),
                questions: watch::Sender::new(0),
                background: Semaphore::new(BACKGROUND_CALLS),
            }),
            scope: None,
        }
    }

    /// Embeds some texts; those that the model does not accept together one half after the other, and a single one
    /// shortened.
    fn batch<'a>(&'a self, of: Batch<'a>, texts: Vec<String>) -> BoxFuture<'a, Result<Vec<Vector>, EmbedError>> {
        Box::pin(async move {
            let error = match self.ask(of, texts.clone()).await {
                Ok(vectors) => return Ok(vectors),
                Err(Refused::Other(error)) => return Err(error),
                Err(Refused::Texts(error)) => error,
            };
            match <[String; 1]>::try_from(texts) {
                Ok([text]) if text.len() > SHORTEST => {
                    let half = text.floor_char_boundary(text.len() / 2);
                    self.batch(of, vec![text[..half].to_owned()]).await
                }
                Ok(_) => Err(error),
                Err(mut texts) => {
                    let second = texts.split_off(texts.len() / 2);
                    let mut vectors = self.batch(of, texts).await?;
                    vectors.extend(self.batch(of, second).await?);
                    Ok(vectors)
                }
            }
        })
    }

    /// Sends one request, when it is its turn.
    async fn ask(&self, of: Batch<'_>, texts: Vec<String>) -> Result<Vec<Vector>, Refused> {
        let SharedState {
            circuit,
            questions,
            background,
        } = &*self.shared;
        let target = &self.model.target;
        let (permit, deadline) = match of.urgency {
            Urgency::Foreground => (None, of.deadline),
            Urgency::Background => {
                // An error means that it took long, or that nobody can ask a question any more.
                let _ = timeout(YIELD_TIMEOUT, questions.subscribe().wait_for(|count| *count == 0)).await;
                // Nobody closes it.
                (background.acquire().await.ok(), Instant::now() + BATCH_TIMEOUT)
            }
        };
        if !circuit.is_closed() {
            let message = format!("{target} keeps failing and is not asked for a moment");
            return Err(Refused::Other(EmbedError::Denied(message)));
        }
        let (wanted, within) = (texts.len(), deadline.saturating_duration_since(Instant::now()));
        let call = EmbedCall {
            caller: caller(of)?,
            route: self.model.route.clone(),
            body: self.body(of.purpose, texts),
        };
        // The call ends by itself; this also bounds what it waits for before it is sent.
        let reply = timeout(within + SLACK, self.planner.embed(call, Some(within))).await;
        let reply = match reply {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => return Err(self.failed(error)),
            Err(_) => return Err(self.broken(EmbedError::Timeout)),
        };
        let (space, body) = (Arc::clone(&self.space), reply.body);
        let cost = body.len() * PARSE_COST_PER_BYTE;
        let parsed = compute::run(Some(of.scope.tenant()), cost, move || read(&body, &space, wanted)).await;
        let vectors = parsed.map_err(|error| Refused::Other(EmbedError::Failed(error.to_string())))?;
        let vectors = vectors.filter(|_| reply.model == target.to_string()).ok_or_else(|| {
            let message = format!("{target} did not answer with one vector for each text");
            self.broken(EmbedError::Failed(message))
        })?;
        self.check_dimensions(&vectors)?;
        circuit.succeed();
        drop(permit);
        if of.urgency == Urgency::Background {
            tokio::time::sleep(pause(&reply.limits)).await;
        }
        Ok(vectors)
    }

    fn body(&self, purpose: Purpose, texts: Vec<String>) -> EmbedBody {
        let form = self.model.form(purpose);
        // Vendors refuse empty texts.
        let sent = |text: String| match (form.prefix.is_empty(), text.is_empty()) {
            (true, true) => " ".to_owned(),
            (true, false) => text,
            (false, _) => format!("{}{text}", form.prefix),
        };
        let dimensions = self.model.is_shortened.then_some(self.model.dimensions);
        let texts = texts.into_iter().map(sent).collect();
        EmbedBody::with(texts, dimensions, form.input_type.as_deref())
    }

    fn check_dimensions(&self, vectors: &[Vector]) -> Result<(), Refused> {
        let (target, dimensions) = (&self.model.target, self.model.dimensions);
        let mut found = vectors.iter().map(|vector| vector.values().len());
        let Some(found) = found.find(|found| *found != dimensions) else {
            return Ok(());
        };
        let pause = self.shared.circuit.fail_for_long();
        tracing::error!(
            model = %target, found, dimensions, pause_s = pause.as_secs(),
            "the embedding model for documents answered with another number of dimensions than configured; its vectors are discarded"
        );
        Err(Refused::Other(EmbedError::Denied(format!(
            "{target} answered with vectors of {found} dimensions, and {dimensions} are configured"
        ))))
    }

    /// Records a failure of the model.
    fn broken(&self, error: EmbedError) -> Refused {
        if let Some(pause) = self.shared.circuit.fail() {
            tracing::warn!(
                model = %self.model.target, %error, pause_s = pause.as_secs(),
                "the embedding model for documents keeps failing; not asking it for a moment"
            );
        }
        Refused::Other(error)
    }

    fn failed(&self, error: GatewayError) -> Refused {
        use GatewayErrorKind as Kind;
        let message = error.message;
        match error.kind {
            Kind::Invalid | Kind::ContextTooLong | Kind::ContentPolicy => Refused::Texts(EmbedError::TooLarge(message)),
            Kind::QuotaExceeded if error.limit.as_ref().is_some_and(|limit| !limit.is_money()) => {
                Refused::Texts(EmbedError::Denied(message))
            }
            Kind::QuotaExceeded => Refused::Other(EmbedError::Denied(message)),
            Kind::UnknownRoute | Kind::Forbidden | Kind::BudgetExhausted | Kind::CredentialsExhausted => {
                Refused::Other(EmbedError::Denied(message))
            }
            Kind::RateLimited | Kind::LimitsUnavailable => Refused::Other(EmbedError::Busy),
            Kind::Timeout => self.broken(EmbedError::Timeout),
            Kind::Unavailable | Kind::Cut => self.broken(EmbedError::Failed(message)),
        }
    }
}

#[async_trait]
impl Embedder for DocumentEmbedder {
    async fn embed(&self, request: EmbedRequest) -> Result<Vec<Vector>, EmbedError> {
        request.check()?;
        let Some(scope) = &self.scope else {
            return Err(EmbedError::Denied(
                "documents are embedded for a tenant only".to_owned(),
            ));
        };
        let EmbedRequest {
            texts,
            purpose,
            urgency,
        } = request;
        let (_question, calls) = match urgency {
            Urgency::Foreground => (Some(Question::begin(&self.shared.questions)), QUESTION_CALLS),
            Urgency::Background => (None, 1),
        };
        let of = Batch {
            scope,
            purpose,
            urgency,
            deadline: Instant::now() + QUESTION_TIMEOUT,
        };
        let batches: Vec<Vec<String>> = texts.chunks(self.model.batch.max(1)).map(<[String]>::to_vec).collect();
        let answers = stream::iter(batches).map(|texts| self.batch(of, texts)).buffered(calls);
        let vectors: Vec<Vec<Vector>> = answers.try_collect().await?;
        Ok(vectors.into_iter().flatten().collect())
    }

    fn of_tenant(&self, scope: &TenantScope) -> Option<Arc<dyn Embedder>> {
        Some(Arc::new(Self {
            scope: Some(scope.clone()),
            ..self.clone()
        }))
    }

    fn is_ready(&self) -> bool {
        self.shared.circuit.is_ready()
    }
}

fn caller(of: Batch<'_>) -> Result<Caller, Refused> {
    let user: Result<UserId, _> = USER.parse();
    Ok(Caller {
        scope: of.scope.clone(),
        user: user.map_err(|error| Refused::Other(EmbedError::Failed(error.to_string())))?,
        role: None,
        api_key: None,
        copilot: None,
        conversation: None,
        turn: None,
        purpose: match of.urgency {
            Urgency::Foreground => call::Purpose::Retrieval,
            Urgency::Background => call::Purpose::Ingestion,
        },
    })
}

/// Returns the pause after which half of each rate limit of the tenant is available again: the other half is left to
/// its turns and searches.
fn pause(limits: &[LimitState]) -> Duration {
    let pauses = limits.iter().filter(|limit| !limit.is_money()).map(|limit| {
        let (half, used) = (limit.limit / 2, limit.limit.saturating_sub(limit.remaining));
        match half.checked_sub(limit.remaining) {
            Some(missing) if used > 0 => limit.reset.mul_f64(missing as f64 / used as f64),
            _ => Duration::ZERO,
        }
    });
    pauses.max().unwrap_or_default().min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::LimitName;

    fn model() -> DocumentModel {
        DocumentModel {
            route: "embeddings".to_owned(),
            target: TargetName::parse("own/org/e5").unwrap(),
            dimensions: 384,
            is_shortened: false,
            query: TextForm::default(),
            passage: TextForm::default(),
            batch: 16,
        }
    }

    #[test]
    fn a_space_differs_where_vectors_of_passages_do() {
        let form = |prefix: &str, input_type: Option<&str>| TextForm {
            prefix: prefix.to_owned(),
            input_type: input_type.map(str::to_owned),
        };
        let plain = model();
        assert_eq!(&*plain.space(), "own/org/e5@384");
        let same = DocumentModel {
            query: form("query: ", Some("query")),
            batch: 1,
            ..model()
        };
        assert_eq!(same.space(), plain.space());
        let others = [
            DocumentModel {
                dimensions: 385,
                ..model()
            },
            DocumentModel {
                target: TargetName::parse("main/org/e5").unwrap(),
                ..model()
            },
            DocumentModel {
                is_shortened: true,
                ..model()
            },
            DocumentModel {
                passage: form("passage: ", None),
                ..model()
            },
            DocumentModel {
                passage: form("", Some("passage: ")),
                ..model()
            },
        ];
        let mut spaces: Vec<Space> = others.iter().map(DocumentModel::space).chain([plain.space()]).collect();
        spaces.sort();
        spaces.dedup();
        assert_eq!(spaces.len(), 6, "{spaces:?}");
    }

    #[test]
    fn the_background_leaves_half_of_a_rate_limit() {
        let limit = |name, limit, remaining, reset| LimitState {
            name,
            limit,
            remaining,
            reset: Duration::from_secs(reset),
        };
        for (limits, expected) in [
            (vec![], 0),
            (vec![limit(LimitName::Tokens, 100, 50, 30)], 0),
            (vec![limit(LimitName::Tokens, 100, 100, 0)], 0),
            // 60 are missing for 36 s, of which 10 are for the half.
            (vec![limit(LimitName::Tokens, 100, 40, 36)], 6),
            (
                vec![
                    limit(LimitName::Tokens, 100, 40, 36),
                    limit(LimitName::Requests, 10, 0, 10),
                ],
                6,
            ),
            (vec![limit(LimitName::Tokens, 100, 0, 600)], 30),
            (vec![limit(LimitName::UsdPerDay, 100, 0, 600)], 0),
            (vec![limit(LimitName::Tokens, 0, 0, 0)], 0),
        ] {
            assert_eq!(pause(&limits).as_secs(), expected, "{limits:?}");
        }
    }
}
