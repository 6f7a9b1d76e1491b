//! Whatever fails, and in whatever form a call is made: no call reaches a target that its tenant may not use, and none
//! uses a shared key where the tenant has keys of its own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::ids::TurnId;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::{Model as _, ModelError, ModelEvent};
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::Gateway;
use copilotd_gateway::access::{Key, Keys, ModelAccess, TenantAccess};
use copilotd_gateway::answer::Answer;
use copilotd_gateway::provider::{CallProgress, Piece, PieceStream, Timeouts, Upstream, UpstreamCall, WholeAnswer};
use copilotd_gateway::request::call::{CacheControl, Mode, Purpose};
use copilotd_gateway::request::embed::{EmbedAnswer, EmbedBody, EmbedCall};
use copilotd_gateway::routing::Route;
use copilotd_gateway::target::{Target, TargetName, TargetState};
use futures::{StreamExt as _, stream};
use parking_lot::Mutex;
use proptest::prelude::*;
use uuid::Uuid;

use super::cache_near::finding_near;
use super::{CLOCKS, caller, request};

const TARGETS: usize = 5;
const TENANTS: [&str; 3] = ["acme", "globex", "initech"];

/// Every call: with whose key, and to which target.
type Seen = Arc<Mutex<Vec<(Option<usize>, usize)>>>;

/// Records each call and follows its script.
#[derive(Debug)]
struct Spy {
    owner: Option<usize>,
    target: usize,
    script: Vec<u8>,
    seen: Seen,
}

impl Spy {
    /// Records a call; returns how it fails, and whether that is after its first piece.
    fn called(&self) -> Option<(FailureClass, bool)> {
        use FailureClass::{Cut, Key, Malformed, Network, Overload, Rate, TimedOut};
        let mut seen = self.seen.lock();
        let n = seen.iter().filter(|call| **call == (self.owner, self.target)).count();
        seen.push((self.owner, self.target));
        let class = match self.script[n % self.script.len()] {
            0 => Key,
            1 => Rate,
            2 => Overload,
            3 => TimedOut,
            4 => Cut,
            5 => Malformed,
            6 => Network,
            7 => FailureClass::ContextLength,
            8 => return Some((Cut, true)),
            9 => return Some((TimedOut, true)),
            _ => return None,
        };
        Some((class, false))
    }

    fn refuse(&self) -> Result<Option<ModelError>, ModelError> {
        let error = |class| ModelError {
            class,
            message: "as it is written".to_owned(),
            retry_after: None,
            refusal: None,
        };
        match self.called() {
            Some((class, false)) => Err(error(class)),
            Some((class, true)) => Ok(Some(error(class))),
            None => Ok(None),
        }
    }
}

#[async_trait]
impl Upstream for Spy {
    async fn stream(&self, call: &UpstreamCall) -> Result<PieceStream, ModelError> {
        let later = self.refuse()?;
        let chunk = call.chunks.then(|| Bytes::from_static(b"{\"choices\":[]}"));
        let piece = |event, content| Piece {
            chunk: chunk.clone(),
            events: vec![event],
            content,
            ..Piece::default()
        };
        let text = Ok(piece(ModelEvent::Text("x".to_owned()), true));
        let end = match later {
            Some(error) => Err(error),
            None => Ok(piece(ModelEvent::Finished(Finish::Stop), false)),
        };
        Ok(stream::iter([text, end]).boxed())
    }

    async fn whole(&self, _: &UpstreamCall) -> Result<WholeAnswer, ModelError> {
        if let Some(error) = self.refuse()? {
            return Err(error);
        }
        Ok(WholeAnswer {
            body: Bytes::from_static(b"{}"),
            model: "gpt".to_owned(),
            usage: Usage::default(),
            finish: Finish::Stop,
        })
    }

    async fn embed(&self, _: &EmbedBody, _: Timeouts, _: &CallProgress) -> Result<EmbedAnswer, ModelError> {
        if let Some(error) = self.refuse()? {
            return Err(error);
        }
        Ok(EmbedAnswer {
            body: Bytes::from_static(b"{}"),
            usage: Usage::default(),
        })
    }
}

fn name(target: usize) -> TargetName {
    TargetName {
        provider: format!("p{target}"),
        model: "gpt".to_owned(),
    }
}

/// What a tenant may use, and where it has a key of its own.
#[derive(Debug, Clone)]
struct GrantedAccess {
    only: Option<HashSet<usize>>,
    own: HashSet<usize>,
}

fn given() -> impl Strategy<Value = GrantedAccess> {
    let targets = || prop::collection::hash_set(0..TARGETS, 0..TARGETS);
    (prop::option::of(targets()), targets()).prop_map(|(only, own)| GrantedAccess { only, own })
}

fn rights(
    tenants: &[GrantedAccess],
    key: &impl Fn(Option<usize>, usize) -> Keys,
) -> HashMap<copilotd_actors::domain::ids::TenantId, ModelAccess> {
    let one = |(tenant, given): (usize, &GrantedAccess)| {
        let rights = ModelAccess {
            only: given.only.as_ref().map(|only| only.iter().copied().map(name).collect()),
            own: given
                .own
                .iter()
                .map(|target| (name(*target), key(Some(tenant), *target)))
                .collect(),
            policy: Arc::default(),
        };
        (TENANTS[tenant].parse().unwrap(), rights)
    };
    tenants.iter().enumerate().map(one).collect()
}

/// Makes one call, in one of the possible forms.
async fn ask(gateway: &Gateway, tenant: usize, how: usize) {
    let scope = TenantScope::from_verified(TENANTS[tenant].parse().unwrap());
    let mut caller = caller();
    caller.scope = scope.clone();
    match how % 6 {
        0..=2 => {
            let mode = if how % 6 == 2 { Mode::Buffered } else { Mode::Live };
            let mut call = request(!how.is_multiple_of(6), mode);
            call.caller = caller;
            call.caller.purpose = if how % 12 < 6 {
                Purpose::Endpoint
            } else {
                Purpose::Audit
            };
            // A cache lookup by embeddings is a call of its own.
            call.cache = if how % 24 < 12 {
                CacheControl::Use
            } else {
                CacheControl::Bypass
            };
            if how % 18 > 12 {
                call.route = format!("p{}/gpt", how % TARGETS);
            }
            if let Ok(reply) = gateway.chat(call).await
                && let Answer::Stream(pieces) = reply.answer
            {
                pieces.collect::<Vec<_>>().await;
            }
        }
        3 => {
            let body = EmbedBody::parse(b"{\"model\":\"default\",\"input\":\"x\"}").unwrap();
            let call = EmbedCall {
                caller,
                route: "default".to_owned(),
                body,
            };
            // Success does not matter here.
            drop(gateway.embed(call).await);
        }
        _ => {
            let mut call = crate::model::request();
            call.scope = scope;
            call.turn = (how % 6 == 4).then(|| TurnId::new(Uuid::from_u128(how as u128)));
            if let Ok(events) = gateway.stream(call).await {
                events.collect::<Vec<_>>().await;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_call_reaches_a_target_its_tenant_may_not_use(
        first in prop::collection::vec(given(), TENANTS.len()),
        second in prop::collection::vec(given(), TENANTS.len()),
        order in Just((0..TARGETS).collect::<Vec<_>>()).prop_shuffle(),
        weighted in any::<bool>(),
        hedged in any::<bool>(),
        script in prop::collection::vec(0_u8..16, 1..8),
        asks in prop::collection::vec((0..TENANTS.len(), 0_usize..1_000), 1..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let seen = Seen::default();
        let key = |owner: Option<usize>, target: usize| -> Keys {
            let spy = Spy { owner, target, script: script.clone(), seen: Arc::clone(&seen) };
            Arc::new([Arc::new(Key::new(format!("{owner:?}/{target}"), Arc::new(spy)))])
        };
        let shared = (0..TARGETS).map(|target| (name(target), key(None, target))).collect();
        let access = Arc::new(TenantAccess::new(shared, rights(&first, &key)));
        let targets = order.iter().map(|target| Arc::new(Target {
            name: name(*target),
            region: None,
            context_tokens: 1_000 + *target as u64,
            weight: weighted.then_some(1),
            tools: true,
            schema: true,
            prefill: false,
            reads: Vec::new(),
            reasoning: false,
            state: Arc::new(TargetState::default()),
        }));
        let route = Route {
            name: "default".to_owned(),
            targets: targets.collect(),
            timeouts: Timeouts { total: Duration::from_secs(2), ..CLOCKS },
            first_token_reasoning: CLOCKS.total,
            patience: Duration::ZERO,
            mode: Mode::Live,
            hedges: hedged.then(Arc::default),
        };
        let gateway = finding_near(Gateway::new(vec![route], Arc::clone(&access) as _), "default");
        let mut called = 0;
        for (n, (tenant, how)) in asks.iter().enumerate() {
            // Halfway through, an operator changes the tenants' access.
            let now = if n < asks.len() / 2 { &first } else { &second };
            if n == asks.len() / 2 {
                access.replace(rights(&second, &key));
            }
            runtime.block_on(ask(&gateway, *tenant, *how));
            let given = &now[*tenant];
            for (owner, target) in seen.lock().drain(..) {
                called += 1;
                prop_assert!(given.only.as_ref().is_none_or(|only| only.contains(&target)), "{} to {}", tenant, target);
                let expected = given.own.contains(&target).then_some(*tenant);
                prop_assert_eq!(owner, expected, "whose key went to {}", target);
            }
        }
        // A caller with access to everything must be served, or the property would say nothing.
        if asks.iter().take(asks.len() / 2).any(|(tenant, how)| first[*tenant].only.is_none() && !how.is_multiple_of(6)) {
            prop_assert!(called > 0);
        }
    }
}
