//! Which model answers on which route.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use copilotd_actors::domain::command::FailureClass;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::{Model, ModelError, ModelRequest, ModelStream};

/// Names a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// Whose route it is; none for one that all tenants share.
    pub tenant: Option<TenantId>,
    /// Its name.
    pub route: String,
}

/// The models of all routes. A tenant's own route hides the shared one of the same name.
pub struct Models(HashMap<RouteKey, Arc<dyn Model>>);

impl Models {
    /// Serves `routes`.
    pub fn new(routes: HashMap<RouteKey, Arc<dyn Model>>) -> Self {
        Self(routes)
    }

    fn find(&self, tenant: &TenantId, route: &str) -> Option<&Arc<dyn Model>> {
        let key = |tenant| RouteKey {
            tenant,
            route: route.to_owned(),
        };
        self.0
            .get(&key(Some(tenant.clone())))
            .or_else(|| self.0.get(&key(None)))
    }
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[async_trait]
impl Model for Models {
    async fn stream(&self, request: ModelRequest) -> Result<ModelStream, ModelError> {
        let Some(model) = self.find(request.scope.tenant(), &request.route) else {
            return Err(ModelError {
                class: FailureClass::Rejected,
                message: format!("no model is configured for the route {:?}", request.route),
                retry_after: None,
            });
        };
        model.stream(request).await
    }
}
