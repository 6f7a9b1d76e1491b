//! The table of all routes, and the layers around them.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use mime::Mime;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::admin::{api_keys, audit, jobs, knowledge_sources, prompts, revocations, tenant_usage as admin, usage};
use super::api::{approvals, client_tools, conversations, events, facts, files, knowledge, messages, tickets, turns};
use super::assets::widget;
use super::operator::{operations, problem_pages, tenants};
use super::state::AppState;
use super::{answer_memory, cross_origin, error_documents, fair_share, hand_over, openai};
use crate::http::accept::Accept;
use crate::http::account::{Account, Budgets};
use crate::http::bodies::BodyLimits;
use crate::http::measure;
use crate::http::problems::{Code, Problem};

/// Builds the public router.
pub fn router(state: AppState) -> Router {
    let (routes, _) = routes().split_for_parts();
    routes
        .fallback(|| async { Problem::new(Code::NotFound) })
        .layer(middleware::from_fn(answer_memory::layer))
        .layer(middleware::from_fn_with_state(state.clone(), fair_share::layer))
        .layer(middleware::from_fn_with_state(state.clone(), bounds))
        .layer(middleware::from_fn_with_state(state.clone(), hand_over::layer))
        .layer(middleware::from_fn_with_state(state.clone(), cross_origin::layer))
        .layer(middleware::from_fn(measure::http_span))
        .layer(middleware::from_fn(error_documents::layer))
        .with_state(state)
}

/// Builds the router of the admin port: health checks and metrics, none of the product's routes.
pub fn admin_router(state: AppState) -> Router {
    let state = state.with_budgets(Budgets::of_admin_port());
    Router::new()
        .route("/healthz", get(operations::healthz))
        .route("/readyz", get(operations::readyz))
        .route("/metrics", get(operations::tenant_metrics))
        .fallback(|| async { Problem::new(Code::NotFound) })
        .layer(middleware::from_fn(answer_memory::layer))
        .layer(middleware::from_fn_with_state(state.clone(), bounds))
        .layer(middleware::from_fn(measure::http_span))
        .layer(middleware::from_fn(error_documents::layer))
        .with_state(state)
}

/// Returns the OpenAPI description generated from the handlers.
pub(crate) fn described() -> OpenApi {
    routes().into_openapi()
}

/// The single table of routes, from which both the router and the OpenAPI description are built.
fn routes() -> OpenApiRouter<AppState> {
    let api = OpenApiRouter::default()
        .routes(routes!(conversations::list, conversations::create))
        .routes(routes!(
            conversations::get,
            conversations::update,
            conversations::delete
        ))
        .routes(routes!(messages::list))
        .routes(routes!(turns::submit))
        .routes(routes!(turns::get))
        .routes(routes!(turns::cancel))
        .routes(routes!(approvals::decide))
        .routes(routes!(client_tools::run))
        .routes(routes!(turns::feedback, turns::given_feedback))
        .routes(routes!(tickets::create))
        .routes(routes!(files::upload))
        .routes(routes!(files::delete))
        .routes(routes!(
            knowledge::documents::get,
            knowledge::documents::put,
            knowledge::documents::update,
            knowledge::documents::delete
        ))
        .routes(routes!(knowledge::documents::list))
        .routes(routes!(knowledge::documents::chunks))
        .routes(routes!(knowledge::search::search))
        .routes(routes!(knowledge::chunks::get))
        .routes(routes!(facts::list))
        .routes(routes!(facts::update, facts::delete))
        .routes(routes!(admin::forget))
        .routes(routes!(audit::list))
        .routes(routes!(audit::verify))
        .routes(routes!(prompts::list))
        .routes(routes!(api_keys::list, api_keys::create))
        .routes(routes!(api_keys::revoke))
        .routes(routes!(revocations::list, revocations::create))
        .routes(routes!(revocations::lift))
        .routes(routes!(knowledge_sources::list))
        .routes(routes!(tenants::list))
        .routes(routes!(tenants::get, tenants::put, tenants::update, tenants::delete))
        .routes(routes!(jobs::create))
        .routes(routes!(jobs::get))
        .routes(routes!(operations::healthz))
        .routes(routes!(operations::readyz))
        .routes(routes!(super::openapi::serve))
        .layer(middleware::from_fn(accepts_json));
    // JSON or CSV: these handlers check `Accept` themselves.
    let reports = OpenApiRouter::default()
        .routes(routes!(admin::usage))
        .routes(routes!(usage::of_tenants))
        .routes(routes!(jobs::result))
        // The content, of whatever type.
        .routes(routes!(files::get));
    let streams = OpenApiRouter::default()
        .routes(routes!(events::of_conversation))
        .routes(routes!(events::of_turn))
        .layer(middleware::from_fn(accepts_events));
    // OpenAI's clients send `Accept: application/json` even for streams, so `Accept` is not checked.
    let gateway = OpenApiRouter::default()
        .routes(routes!(openai::chat::complete))
        .routes(routes!(openai::embeddings::create))
        .routes(routes!(openai::models::list))
        .routes(routes!(openai::models::get))
        // `provider/model` with an unescaped slash, as clients write it.
        .route(
            "/v1/models/{provider}/{*model}",
            axum::routing::get(openai::models::get_nested),
        );
    OpenApiRouter::default()
        .merge(api)
        .merge(reports)
        .merge(streams)
        .merge(gateway)
        .routes(routes!(operations::metrics))
        .routes(routes!(widget::loader))
        .routes(routes!(widget::file))
        .routes(routes!(problem_pages::problem_page))
}

/// Passes the body limits to the extractors, and accounts for the request's resources until its response is sent.
async fn bounds(
    State(body): State<BodyLimits>,
    State(budgets): State<Arc<Budgets>>,
    mut request: Request,
    next: Next,
) -> Response {
    request.extensions_mut().insert(body);
    let account = match Account::open(&budgets, &request) {
        Ok(account) => account,
        Err(problem) => return problem.into_response(),
    };
    request.extensions_mut().insert(account.clone());
    let response = next.run(request).await;
    account.settle(response).await
}

async fn accepts_json(request: Request, next: Next) -> Response {
    accepts(request, next, &mime::APPLICATION_JSON).await
}

async fn accepts_events(request: Request, next: Next) -> Response {
    accepts(request, next, &mime::TEXT_EVENT_STREAM).await
}

async fn accepts(request: Request, next: Next, media: &Mime) -> Response {
    let accept = Accept::of(request.headers());
    if request.method() != Method::OPTIONS && accept.is_some_and(|accept| accept.preference(media).is_none()) {
        return Problem::new(Code::NotAcceptable)
            .detail(format!(
                "this route answers with {media}; allow it in the Accept header"
            ))
            .into_response();
    }
    next.run(request).await
}
