//! The web page of `copilotd demo`, its `demo.json`, and the simulated Zendesk and Slack for the person in front of the
//! page. They contain tokens and act for that person, so every route here answers only requests that
//! [`demo_origin`](super::demo_origin) accepts.

use std::sync::{Arc, OnceLock};

use axum::http::header;
use axum::response::IntoResponse as _;
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde_json::Value;

use super::demo_origin::{self, DemoAddress, OriginError};
use crate::surfaces::assets;

/// What a person does in the vendors' own apps: routes below `/demo/zendesk` and `/demo/slack`.
#[derive(Debug, Clone, Default)]
pub struct VendorApps {
    pub zendesk: Router,
    pub slack: Router,
}

/// Returns the page's routes. `about` and `address` are set once the address is known; until then every answer is 503.
pub fn routes(about: Arc<OnceLock<Value>>, address: DemoAddress, apps: VendorApps) -> Router {
    let about = move || async move {
        match about.get() {
            Some(about) => ([(header::CACHE_CONTROL, "no-store")], Json(about)).into_response(),
            None => OriginError::Starting.into_response(),
        }
    };
    assets::demo::routes()
        .route("/demo.json", get(about))
        .nest("/demo/zendesk", apps.zendesk)
        .nest("/demo/slack", apps.slack)
        .route_layer(middleware::from_fn_with_state(address, demo_origin::guard))
}
