//! Facts in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::domain::ids::{FactId, TenantId, UserId};
use crate::ports::{Facts, FactsError, FactsQuery, KnownFact, KnownFacts, LearnRequest, WithdrawnTurn};
use crate::tenancy::TenantScope;

/// Facts that tests put in. A message that begins with "remember: " is learned as it is. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct FakeFacts(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    facts: Mutex<BTreeMap<(TenantId, UserId), Vec<KnownFact>>>,
    requests: Mutex<Vec<LearnRequest>>,
    scripts: Mutex<VecDeque<FactsScript>>,
}

/// What one call does instead of its work.
#[derive(Debug, Clone, Copy)]
pub enum FactsScript {
    /// It fails.
    Fail,
    /// It never ends by itself.
    Hang,
    /// It panics.
    Panic,
}

impl FakeFacts {
    /// Adds a fact; it is the newest.
    pub fn put(&self, tenant: &TenantId, user: &UserId, fact: KnownFact) {
        let mut facts = self.0.facts.lock();
        facts.entry((tenant.clone(), user.clone())).or_default().insert(0, fact);
    }

    /// Scripts the next call.
    pub fn script(&self, script: FactsScript) {
        self.0.scripts.lock().push_back(script);
    }

    /// Returns the requests so far, oldest first.
    pub fn requests(&self) -> Vec<LearnRequest> {
        self.0.requests.lock().clone()
    }

    async fn play(&self) -> Result<(), FactsError> {
        let script = self.0.scripts.lock().pop_front();
        match script {
            None => Ok(()),
            Some(FactsScript::Fail) => Err(FactsError::Unavailable("scripted".to_owned())),
            Some(FactsScript::Hang) => std::future::pending().await,
            Some(FactsScript::Panic) => panic!("scripted"),
        }
    }
}

#[async_trait]
impl Facts for FakeFacts {
    async fn known(&self, scope: &TenantScope, query: &FactsQuery) -> Result<KnownFacts, FactsError> {
        self.play().await?;
        let key = (scope.tenant().clone(), query.user.clone());
        let mut facts = self.0.facts.lock().get(&key).cloned().unwrap_or_default();
        facts.truncate(query.limit);
        Ok(KnownFacts { facts, is_late: false })
    }

    async fn learn(&self, scope: &TenantScope, request: LearnRequest) -> Result<(), FactsError> {
        self.play().await?;
        let is_new = {
            let mut requests = self.0.requests.lock();
            let is_new = requests.iter().all(|before| before.turn != request.turn);
            requests.push(request.clone());
            is_new
        };
        if let Some(text) = request.message.strip_prefix("remember: ").filter(|_| is_new) {
            let fact = KnownFact {
                id: FactId::derived(request.turn, text),
                text: text.to_owned(),
                said_at: request.said_at,
            };
            self.put(scope.tenant(), &request.user, fact);
        }
        Ok(())
    }

    async fn withdraw(&self, scope: &TenantScope, turn: &WithdrawnTurn) -> Result<(), FactsError> {
        self.play().await?;
        let mut facts = self.0.facts.lock();
        let of_user = facts.entry((scope.tenant().clone(), turn.user.clone())).or_default();
        of_user.retain(|fact| fact.id != FactId::derived(turn.turn, &fact.text));
        Ok(())
    }
}
