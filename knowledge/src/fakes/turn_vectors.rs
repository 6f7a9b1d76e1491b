//! Vectors of messages in memory, and the contract of the port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use copilotd_actors::domain::ids::{ConversationId, Seq, TenantId};
use copilotd_actors::ports::{LogError, Space, Vector};
use copilotd_actors::tenancy::TenantScope;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::turn_vectors::{TurnVector, TurnVectors, from_bytes, to_bytes};

type Key = (TenantId, ConversationId);

/// [`TurnVectors`] in memory. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct MemoryTurnVectors(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<Key, BTreeMap<Seq, TurnVector>>,
    erased: BTreeSet<Key>,
}

impl MemoryTurnVectors {
    /// Returns the messages of a conversation that have vectors.
    pub fn stored(&self, tenant: &TenantId, conversation: ConversationId) -> Vec<Seq> {
        let state = self.0.lock();
        let rows = state.rows.get(&(tenant.clone(), conversation));
        rows.map(|rows| rows.keys().copied().collect()).unwrap_or_default()
    }
}

/// Returns a vector as a store gives it back.
fn stored(vector: &Vector) -> Vector {
    from_bytes(vector.space(), &to_bytes(vector)).unwrap_or_else(|| vector.clone())
}

#[async_trait]
impl TurnVectors for MemoryTurnVectors {
    async fn put(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        vectors: Vec<TurnVector>,
    ) -> Result<bool, LogError> {
        let mut state = self.0.lock();
        let key = (scope.tenant().clone(), conversation);
        if state.erased.contains(&key) {
            return Ok(false);
        }
        let rows = state.rows.entry(key).or_default();
        rows.extend(vectors.into_iter().map(|row| {
            let (alone, after_previous) = (stored(&row.alone), stored(&row.after_previous));
            let seq = row.seq;
            (
                seq,
                TurnVector {
                    seq,
                    alone,
                    after_previous,
                },
            )
        }));
        Ok(true)
    }

    async fn load(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        space: &Space,
        from: Seq,
        upto: Seq,
    ) -> Result<Vec<TurnVector>, LogError> {
        let state = self.0.lock();
        let rows = state.rows.get(&(scope.tenant().clone(), conversation));
        let rows = rows.into_iter().flat_map(|rows| rows.values());
        let wanted = rows.filter(|row| (from..=upto).contains(&row.seq) && row.alone.space() == space);
        Ok(wanted.cloned().collect())
    }

    async fn erase(&self, scope: &TenantScope, conversation: ConversationId) -> Result<u64, LogError> {
        let mut state = self.0.lock();
        let key = (scope.tenant().clone(), conversation);
        let rows = state.rows.remove(&key).unwrap_or_default();
        state.erased.insert(key);
        Ok(rows.len() as u64)
    }

    async fn erase_tenant(&self, scope: &TenantScope) -> Result<u64, LogError> {
        let mut state = self.0.lock();
        let is_other = |key: &Key| key.0 != *scope.tenant();
        let count = state.rows.iter().filter(|(key, _)| !is_other(key));
        let count = count.map(|(_, rows)| rows.len() as u64).sum();
        state.rows.retain(|key, _| is_other(key));
        state.erased.retain(is_other);
        Ok(count)
    }
}

/// Returns vectors that differ from message to message.
///
/// # Panics
/// Never: the components are not all zero.
pub fn contract_vector(space: &str, seq: Seq) -> TurnVector {
    let vector = |n: u64| {
        let component = |i: u64| f32::from(u8::try_from((n * 7_919 + i * i * 31) % 101).unwrap_or_default()) - 50.0;
        let vector = Vector::unit(&space.into(), (0..384).map(component).collect()).expect("it has a direction");
        stored(&vector)
    };
    TurnVector {
        seq,
        alone: vector(seq),
        after_previous: vector(seq + 1_000),
    }
}

/// Checks that an empty implementation keeps the port's contract.
///
/// # Panics
/// If it does not.
pub async fn contract(vectors: &dyn TurnVectors, scope: &TenantScope, other: &TenantScope) {
    let [one, two] = [1, 2].map(|n| ConversationId::new(Uuid::from_u128(n)));
    let space: Space = "m".into();
    let rows = |seqs: &[Seq]| -> Vec<TurnVector> { seqs.iter().map(|seq| contract_vector("m", *seq)).collect() };
    let load = async |scope: &TenantScope, conversation, from, upto| {
        let loaded = vectors.load(scope, conversation, &space, from, upto).await;
        loaded.expect("they can be loaded")
    };
    let put = async |scope: &TenantScope, conversation, rows| {
        let put = vectors.put(scope, conversation, rows).await;
        put.expect("they can be stored")
    };

    // What was put is loaded, in order, of the range; putting again replaces.
    assert!(load(scope, one, 0, Seq::MAX).await.is_empty());
    assert!(put(scope, one, rows(&[9, 3, 5])).await);
    assert!(put(scope, one, rows(&[5])).await);
    assert!(put(scope, one, Vec::new()).await);
    assert_eq!(load(scope, one, 0, Seq::MAX).await, rows(&[3, 5, 9]));
    assert_eq!(load(scope, one, 4, 9).await, rows(&[5, 9]));
    assert_eq!(load(scope, one, 4, 4).await, []);

    // Vectors of another space take the place of the old ones, and are not returned for them.
    assert!(put(scope, one, vec![contract_vector("n", 5)]).await);
    assert_eq!(load(scope, one, 0, 9).await, rows(&[3, 9]));
    let newer = vectors.load(scope, one, &"n".into(), 0, 9).await;
    assert_eq!(newer.expect("they can be loaded"), [contract_vector("n", 5)]);

    // Nothing of another tenant or conversation.
    assert!(put(other, one, rows(&[4])).await);
    assert!(put(scope, two, rows(&[7])).await);
    assert_eq!(load(other, one, 0, 9).await, rows(&[4]));
    assert_eq!(load(scope, two, 0, 9).await, rows(&[7]));
    assert_eq!(load(other, two, 0, 9).await, []);

    // Erased for good, and only that; again it is nothing.
    assert_eq!(vectors.erase(scope, one).await.expect("erased"), 3);
    assert_eq!(vectors.erase(scope, one).await.expect("erased"), 0);
    assert!(!put(scope, one, rows(&[3])).await);
    assert_eq!(load(scope, one, 0, Seq::MAX).await, []);
    assert_eq!(load(other, one, 0, 9).await, rows(&[4]));
    assert_eq!(load(scope, two, 0, 9).await, rows(&[7]));

    // A tenant with everything.
    assert_eq!(vectors.erase_tenant(scope).await.expect("erased"), 1);
    assert_eq!(vectors.erase_tenant(scope).await.expect("erased"), 0);
    assert_eq!(load(scope, two, 0, 9).await, []);
    assert_eq!(load(other, one, 0, 9).await, rows(&[4]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_fake_keeps_the_contract() {
        #[expect(clippy::disallowed_methods, reason = "tests open scopes")]
        let scope = |tenant: &str| TenantScope::from_verified(tenant.parse().unwrap());
        contract(&MemoryTurnVectors::default(), &scope("acme"), &scope("globex")).await;
    }
}
