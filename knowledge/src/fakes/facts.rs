//! Facts in memory.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use copilotd_actors::domain::ids::{ConversationId, TenantId, TurnId, UserId};
use copilotd_actors::ports::LogError;
use copilotd_actors::tenancy::TenantScope;
use parking_lot::Mutex;

use crate::facts::store::{Change, FactStore, Lesson, LessonState, MAX_ATTEMPTS, StoredFact};

type Key = (TenantId, UserId);

/// [`FactStore`] in memory. Every conversation is known until it is erased.
#[derive(Debug, Default)]
pub struct MemoryFacts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    facts: BTreeMap<Key, Vec<StoredFact>>,
    lessons: BTreeMap<(TenantId, TurnId), (Lesson, Progress)>,
    erased: BTreeSet<(TenantId, ConversationId)>,
}

#[derive(Debug, Default)]
struct Progress {
    attempts: u32,
    is_closed: bool,
}

impl MemoryFacts {
    /// Erases a conversation. Returns how many facts and marks were deleted.
    pub fn erase(&self, tenant: &TenantId, conversation: ConversationId) -> usize {
        let mut state = self.0.lock();
        state.erased.insert((tenant.clone(), conversation));
        let mut erased = 0;
        for ((of, _), facts) in &mut state.facts {
            let before = facts.len();
            facts.retain(|fact| of != tenant || fact.conversation != conversation);
            erased += before - facts.len();
        }
        let before = state.lessons.len();
        state
            .lessons
            .retain(|(of, _), (lesson, _)| of != tenant || lesson.conversation != conversation);
        erased + before - state.lessons.len()
    }
}

impl State {
    fn apply(&mut self, key: &Key, change: &Change) {
        let erased = self.erased.clone();
        let facts = self.facts.entry(key.clone()).or_default();
        for fact in &change.put {
            facts.retain(|before| before.id != fact.id);
            if !erased.contains(&(key.0.clone(), fact.conversation)) {
                facts.push(fact.clone());
            }
        }
        facts.retain(|fact| !change.delete.contains(&fact.id));
    }
}

#[async_trait]
impl FactStore for MemoryFacts {
    async fn facts(&self, scope: &TenantScope, user: &UserId) -> Result<Vec<StoredFact>, LogError> {
        let key = (scope.tenant().clone(), user.clone());
        let mut facts = self.0.lock().facts.get(&key).cloned().unwrap_or_default();
        facts.sort_by(|a, b| (b.fact.said_at, a.id).cmp(&(a.fact.said_at, b.id)));
        Ok(facts)
    }

    async fn open_lesson(&self, scope: &TenantScope, lesson: &Lesson) -> Result<LessonState, LogError> {
        let mut state = self.0.lock();
        let tenant = scope.tenant().clone();
        if state.erased.contains(&(tenant.clone(), lesson.conversation)) {
            return Ok(LessonState::Erased);
        }
        let known = state.lessons.entry((tenant, lesson.turn));
        let (_, progress) = known.or_insert_with(|| (lesson.clone(), Progress::default()));
        Ok(if progress.is_closed {
            LessonState::Closed
        } else {
            LessonState::Open
        })
    }

    async fn open_lessons(&self, scope: &TenantScope, user: &UserId, limit: usize) -> Result<Vec<Lesson>, LogError> {
        let state = self.0.lock();
        let mut open: Vec<Lesson> = state
            .lessons
            .iter()
            .filter(|((tenant, _), (lesson, progress))| {
                tenant == scope.tenant() && lesson.user == *user && !progress.is_closed
            })
            .map(|(_, (lesson, _))| lesson.clone())
            .collect();
        open.sort_by_key(|lesson| (lesson.said_at, lesson.turn));
        open.truncate(limit);
        Ok(open)
    }

    async fn fail_lesson(&self, scope: &TenantScope, lesson: &Lesson) -> Result<bool, LogError> {
        let mut state = self.0.lock();
        let Some((_, progress)) = state.lessons.get_mut(&(scope.tenant().clone(), lesson.turn)) else {
            return Ok(true);
        };
        progress.attempts += 1;
        progress.is_closed |= progress.attempts >= MAX_ATTEMPTS;
        Ok(progress.is_closed)
    }

    async fn close_lesson(&self, scope: &TenantScope, lesson: &Lesson, change: &Change) -> Result<bool, LogError> {
        let mut state = self.0.lock();
        let tenant = scope.tenant().clone();
        let Some((_, progress)) = state.lessons.get_mut(&(tenant.clone(), lesson.turn)) else {
            return Ok(false);
        };
        if std::mem::replace(&mut progress.is_closed, true) {
            return Ok(false);
        }
        state.apply(&(tenant, lesson.user.clone()), change);
        Ok(true)
    }

    async fn withdraw(&self, scope: &TenantScope, lesson: &Lesson) -> Result<(), LogError> {
        let mut state = self.0.lock();
        let tenant = scope.tenant().clone();
        for ((of, user), facts) in &mut state.facts {
            if *of != tenant || *user != lesson.user {
                continue;
            }
            let before = facts.len();
            facts.retain(|fact| fact.turn != lesson.turn);
            if facts.len() < before {
                // What they had superseded holds again.
                let superseded = facts.iter_mut();
                let superseded = superseded.filter(|fact| fact.fact.valid_to == Some(lesson.said_at));
                superseded.for_each(|fact| fact.fact.valid_to = None);
            }
        }
        if !state.erased.contains(&(tenant.clone(), lesson.conversation)) {
            let known = state.lessons.entry((tenant, lesson.turn));
            known
                .or_insert_with(|| (lesson.clone(), Progress::default()))
                .1
                .is_closed = true;
        }
        Ok(())
    }

    async fn change(&self, scope: &TenantScope, user: &UserId, change: &Change) -> Result<(), LogError> {
        self.0.lock().apply(&(scope.tenant().clone(), user.clone()), change);
        Ok(())
    }
}
