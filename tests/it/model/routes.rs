//! Which model a tenant's route leads to.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use copilotd::adapters::models::{Models, RouteKey};
use copilotd_actors::domain::command::FailureClass;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::ports::{Model, ModelError, ModelEvent, ModelRequest, ModelStream};
use copilotd_actors::tenancy::TenantScope;
use futures::StreamExt;

use super::request;

struct Named(&'static str);

#[async_trait]
impl Model for Named {
    async fn stream(&self, _: ModelRequest) -> Result<ModelStream, ModelError> {
        let events = [ModelEvent::Model(self.0.to_owned()), ModelEvent::Finished(Finish::Stop)];
        Ok(futures::stream::iter(events.map(Ok)).boxed())
    }
}

#[tokio::test]
async fn a_tenants_own_route_hides_the_shared_one() {
    let route = |tenant: Option<&str>, route: &str, model: &'static str| {
        let key = RouteKey {
            tenant: tenant.map(|tenant| tenant.parse().unwrap()),
            route: route.to_owned(),
        };
        (key, Arc::new(Named(model)) as Arc<dyn Model>)
    };
    let models = Models::new(HashMap::from([
        route(None, "default", "shared"),
        route(Some("acme"), "default", "acme's"),
        route(Some("acme"), "small", "acme's small"),
    ]));
    for (tenant, route, expected) in [
        ("acme", "default", Some("acme's")),
        ("acme", "small", Some("acme's small")),
        ("globex", "default", Some("shared")),
        ("globex", "small", None),
        ("acme", "large", None),
    ] {
        let asked = models
            .stream(ModelRequest {
                scope: TenantScope::from_verified(tenant.parse().unwrap()),
                route: route.to_owned(),
                ..request()
            })
            .await;
        match (asked, expected) {
            (Ok(mut stream), Some(name)) => {
                assert_eq!(
                    stream.next().await.unwrap().unwrap(),
                    ModelEvent::Model(name.to_owned())
                );
            }
            (Err(error), None) => {
                assert_eq!(error.class, FailureClass::Rejected);
                assert_eq!(error.message, format!("no model is configured for the route {route:?}"));
            }
            (asked, _) => panic!("{tenant} {route}: {:?}", asked.err()),
        }
    }
}
