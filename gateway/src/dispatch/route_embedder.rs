//! Embeddings by the models of a route: an ordinary gateway call with the caller's model access, charged to the caller.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;

use super::plan::Planner;
use crate::request::call::{Caller, Purpose};
use crate::request::embed::{EmbedBody, EmbedCall};
use copilotd_actors::ports::{EmbedError, EmbedRequest, Embedder, Space, Vector};

/// Longest wait for vectors. A slower model is useless for a lookup, and its target counts as unhealthy.
const PATIENCE: Duration = Duration::from_millis(900);

/// The models of a route as one caller may use them. Vectors are comparable when the same target made them.
#[derive(Debug)]
pub(super) struct RouteEmbedder {
    planner: Planner,
    caller: Caller,
    route: Arc<str>,
}

impl RouteEmbedder {
    pub(super) fn new(planner: &Planner, caller: &Caller, route: &Arc<str>) -> Self {
        Self {
            planner: planner.clone(),
            caller: Caller {
                purpose: Purpose::Lookup,
                ..caller.clone()
            },
            route: Arc::clone(route),
        }
    }
}

#[async_trait]
impl Embedder for RouteEmbedder {
    async fn embed(&self, request: EmbedRequest) -> Result<Vec<Vector>, EmbedError> {
        request.check()?;
        let texts = request.texts;
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = texts.len();
        let call = EmbedCall {
            caller: self.caller.clone(),
            route: self.route.to_string(),
            body: EmbedBody::of(texts),
        };
        let reply = self.planner.embed(call, Some(PATIENCE)).await;
        let reply = reply.map_err(|error| EmbedError::Failed(error.message))?;
        read(&reply.body, &reply.model.into(), wanted)
            .ok_or_else(|| EmbedError::Failed("the provider's answer is not a list of vectors".to_owned()))
    }
}

#[derive(Deserialize)]
struct List {
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    index: Option<usize>,
    embedding: Vec<f32>,
}

/// Parses one vector for each of `wanted` texts, in the texts' order. `None` if the body does not have exactly these.
pub(super) fn read(body: &[u8], space: &Space, wanted: usize) -> Option<Vec<Vector>> {
    let list: List = serde_json::from_slice(body).ok()?;
    let mut vectors = vec![None; wanted];
    for (place, item) in list.data.into_iter().enumerate() {
        let slot = vectors.get_mut(item.index.unwrap_or(place))?;
        if slot.is_some() {
            return None;
        }
        *slot = Some(Vector::unit(space, item.embedding)?);
    }
    vectors.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_come_in_the_texts_order_or_not_at_all() {
        for (body, expected) in [
            (
                r#"{"data":[{"index":1,"embedding":[0,2]},{"index":0,"embedding":[3,0]}]}"#,
                Some([[1.0, 0.0], [0.0, 1.0]]),
            ),
            (
                r#"{"data":[{"embedding":[3,0]},{"embedding":[0,2]}]}"#,
                Some([[1.0, 0.0], [0.0, 1.0]]),
            ),
            (r#"{"data":[{"index":0,"embedding":[3,0]}]}"#, None),
            (
                r#"{"data":[{"index":0,"embedding":[3,0]},{"index":0,"embedding":[3,0]}]}"#,
                None,
            ),
            (
                r#"{"data":[{"index":0,"embedding":[3,0]},{"index":2,"embedding":[3,0]}]}"#,
                None,
            ),
            (
                r#"{"data":[{"index":0,"embedding":[0,0]},{"index":1,"embedding":[3,0]}]}"#,
                None,
            ),
            (
                r#"{"data":[{"index":0,"embedding":"AAAA"},{"index":1,"embedding":[3,0]}]}"#,
                None,
            ),
            ("{}", None),
        ] {
            let vectors = read(body.as_bytes(), &"a/m".into(), 2);
            let values = vectors.map(|vectors| vectors.iter().map(|vector| vector.values().to_vec()).collect());
            let expected: Option<Vec<Vec<f32>>> = expected.map(|all| all.map(|one| one.to_vec()).to_vec());
            assert_eq!(values, expected, "{body}");
        }
    }
}
