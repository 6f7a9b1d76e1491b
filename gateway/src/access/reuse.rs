//! Keys that outlive a change of the configuration, so that what is known of them (rejected, cooling down) does too.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::keys::{Key, Keys};
use super::offered::{PlannedKey, TargetKeys};
use crate::provider::Upstream;
use crate::target::TargetName;

/// The keys in use, by fingerprint.
#[derive(Debug, Default)]
pub struct KnownKeys(Mutex<KeysByPrint>);

type KeysByPrint = HashMap<[u8; 32], Arc<Key>>;

/// The keys of a configuration that is being prepared.
#[derive(Debug, Default)]
pub struct PreparedKeys {
    known: KeysByPrint,
    kept: KeysByPrint,
}

impl KnownKeys {
    /// Begins to prepare the keys of another configuration. Nothing changes before [`KnownKeys::replace`].
    pub fn prepare(&self) -> PreparedKeys {
        PreparedKeys {
            known: self.0.lock().clone(),
            kept: HashMap::new(),
        }
    }

    /// Keeps the prepared keys and forgets all others.
    pub fn replace(&self, prepared: PreparedKeys) {
        *self.0.lock() = prepared.kept;
    }
}

impl PreparedKeys {
    /// Returns the planned keys of each target. Those that are in use are used again; `upstream` builds the others'
    /// upstreams.
    pub fn keys<T, S, E>(
        &mut self,
        planned: Vec<TargetKeys<T, S>>,
        mut upstream: impl FnMut(T, S) -> Result<Arc<dyn Upstream>, E>,
    ) -> Result<HashMap<TargetName, Keys>, E> {
        let mut of_targets = HashMap::new();
        for (target, planned) in planned {
            let mut keys = Vec::with_capacity(planned.len());
            for PlannedKey {
                print,
                name,
                of,
                secret,
            } in planned
            {
                let key = match self.known.get(&print) {
                    Some(key) => Arc::clone(key),
                    None => Arc::new(Key::new(name, upstream(of, secret)?)),
                };
                self.kept.insert(print, Arc::clone(&key));
                keys.push(key);
            }
            of_targets.insert(target, keys.into());
        }
        Ok(of_targets)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use async_trait::async_trait;
    use copilotd_actors::ports::ModelError;

    use super::*;
    use crate::provider::{PieceStream, UpstreamCall, WholeAnswer};

    /// An upstream that says which key it was built from.
    #[derive(Debug)]
    struct Built(u32);

    #[async_trait]
    impl Upstream for Built {
        async fn stream(&self, _: &UpstreamCall) -> Result<PieceStream, ModelError> {
            unreachable!("no test calls it: {}", self.0)
        }

        async fn whole(&self, _: &UpstreamCall) -> Result<WholeAnswer, ModelError> {
            unreachable!("no test calls it: {}", self.0)
        }
    }

    fn plan(prints: &[u8]) -> Vec<TargetKeys<(), u32>> {
        let key = |print: &u8| PlannedKey {
            print: [*print; 32],
            name: format!("a#{print}"),
            of: (),
            secret: u32::from(*print),
        };
        let target = TargetName {
            provider: "a".to_owned(),
            model: "x".to_owned(),
        };
        vec![(target, prints.iter().map(key).collect())]
    }

    fn prepare(known: &KnownKeys, prints: &[u8]) -> (Vec<Arc<Key>>, PreparedKeys) {
        let mut prepared = known.prepare();
        let built = |(), secret| Ok::<_, Infallible>(Arc::new(Built(secret)) as Arc<dyn Upstream>);
        let keys = prepared.keys(plan(prints), built).unwrap();
        let keys = keys.into_values().next().unwrap();
        (keys.to_vec(), prepared)
    }

    fn names(keys: &[Arc<Key>]) -> Vec<&str> {
        keys.iter().map(|key| key.name.as_str()).collect()
    }

    #[test]
    fn a_key_is_the_same_while_its_print_is_and_another_after_it_was_gone() {
        let known = KnownKeys::default();
        let (first, prepared) = prepare(&known, &[1, 2]);
        known.replace(prepared);
        assert_eq!(names(&first), ["a#1", "a#2"]);
        let (second, prepared) = prepare(&known, &[2, 3]);
        known.replace(prepared);
        assert_eq!(names(&second), ["a#2", "a#3"]);
        assert!(Arc::ptr_eq(&first[1], &second[0]));
        let (third, _) = prepare(&known, &[1, 2]);
        assert!(!Arc::ptr_eq(&first[0], &third[0]), "it was removed in between");
        assert!(Arc::ptr_eq(&first[1], &third[1]));
    }

    #[test]
    fn what_is_prepared_and_not_applied_changes_nothing() {
        let known = KnownKeys::default();
        let (first, prepared) = prepare(&known, &[1]);
        known.replace(prepared);
        drop(prepare(&known, &[2]));
        let failed = known.prepare().keys(plan(&[3]), |(), _| Err("no upstream"));
        assert_eq!(failed.unwrap_err(), "no upstream");
        let (again, _) = prepare(&known, &[1]);
        assert!(Arc::ptr_eq(&first[0], &again[0]));
    }
}
