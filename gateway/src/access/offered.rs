//! Which keys each target of the configuration is called with: pure rules over plain settings. What builds an upstream
//! from a key is the caller's.

use std::collections::HashSet;

use copilotd_actors::domain::hash::fingerprint;
use copilotd_actors::domain::ids::TenantId;

use crate::target::TargetName;

/// A target of the configuration, with what access to it depends on.
#[derive(Debug, Clone)]
pub struct OfferedTarget<T> {
    /// Name of the target.
    pub name: TargetName,
    /// Region of its provider.
    pub region: Option<String>,
    /// Whether only tenants with keys of their own may call its provider.
    pub own_keys_only: bool,
    /// What its upstreams are built from.
    pub of: T,
}

/// A key of the configuration.
#[derive(Debug, Clone)]
pub struct GivenKey<S> {
    /// Fingerprint of the key and of what is sent with it: if these change, it is another key.
    pub print: [u8; 32],
    /// The key.
    pub secret: S,
}

/// A key with which a target is to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedKey<T, S> {
    /// Fingerprint of the key, its target and, if it is a tenant's own, the tenant.
    pub print: [u8; 32],
    /// Name of the key for logs and metrics: `provider#1`, or `tenant/provider#1` if it is a tenant's own.
    pub name: String,
    /// What its upstream is built from.
    pub of: T,
    /// The key.
    pub secret: S,
}

/// The keys of a target, in order of preference.
pub type TargetKeys<T, S> = (TargetName, Vec<PlannedKey<T, S>>);

/// Plans the keys that all tenants share. A target whose provider only takes tenants' own keys has none. If several
/// routes have a target, the first one's is used. `keys_of` returns the keys of a provider.
pub fn shared_keys<T: Clone, S>(
    targets: &[OfferedTarget<T>],
    keys_of: impl Fn(&T) -> Vec<GivenKey<S>>,
) -> Vec<TargetKeys<T, S>> {
    let mut seen = HashSet::new();
    let offered = targets.iter().filter(|target| !target.own_keys_only);
    let planned = |target: &OfferedTarget<T>| plan(target, None, keys_of(&target.of));
    offered
        .filter(|target| seen.insert(&target.name))
        .map(planned)
        .collect()
}

/// Plans a tenant's own keys. They are used for all targets of their provider, whether others may call it or not. If a
/// provider is given twice, the first one's keys are used.
pub fn own_keys<T: Clone, S>(
    tenant: &TenantId,
    targets: &[OfferedTarget<T>],
    given: impl IntoIterator<Item = (String, Vec<GivenKey<S>>)>,
) -> Vec<TargetKeys<T, S>>
where
    S: Clone,
{
    let mut seen = HashSet::new();
    let mut planned = Vec::new();
    for (provider, keys) in given {
        let of_provider = targets.iter().filter(|target| target.name.provider == provider);
        for target in of_provider.filter(|target| seen.insert(&target.name)) {
            planned.push(plan(target, Some(tenant), keys.clone()));
        }
    }
    planned
}

fn plan<T: Clone, S>(target: &OfferedTarget<T>, tenant: Option<&TenantId>, keys: Vec<GivenKey<S>>) -> TargetKeys<T, S> {
    let TargetName { provider, model } = &target.name;
    let owner = tenant.map_or("", TenantId::as_str);
    let planned = |(n, key): (usize, GivenKey<S>)| PlannedKey {
        print: fingerprint(&[owner, provider, model, &hex::encode(key.print)]),
        name: match tenant {
            Some(tenant) => format!("{tenant}/{provider}#{}", n + 1),
            None => format!("{provider}#{}", n + 1),
        },
        of: target.of.clone(),
        secret: key.secret,
    };
    (target.name.clone(), keys.into_iter().enumerate().map(planned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `provider/model`, with `!` behind it if the provider takes only own keys. `of` is its place.
    fn targets(names: &[&str]) -> Vec<OfferedTarget<usize>> {
        let target = |(of, text): (usize, &&str)| {
            let (provider, model) = text.trim_end_matches('!').split_once('/').unwrap();
            OfferedTarget {
                name: name(provider, model),
                region: None,
                own_keys_only: text.ends_with('!'),
                of,
            }
        };
        names.iter().enumerate().map(target).collect()
    }

    fn name(provider: &str, model: &str) -> TargetName {
        TargetName {
            provider: provider.to_owned(),
            model: model.to_owned(),
        }
    }

    fn given(secrets: &[&'static str]) -> Vec<GivenKey<&'static str>> {
        let key = |secret: &&'static str| GivenKey {
            print: fingerprint(&[secret]),
            secret: *secret,
        };
        secrets.iter().map(key).collect()
    }

    /// As `provider/model@place: name=secret …`.
    fn told(planned: &[TargetKeys<usize, &str>]) -> Vec<String> {
        let key = |key: &PlannedKey<usize, &str>| format!("{}={}@{}", key.name, key.secret, key.of);
        let keys = |(name, keys): &TargetKeys<usize, &str>| {
            let keys: Vec<String> = keys.iter().map(key).collect();
            format!("{}/{}: {}", name.provider, name.model, keys.join(" "))
        };
        planned.iter().map(keys).collect()
    }

    #[test]
    fn shared_keys_are_of_every_target_whose_provider_takes_them() {
        for (offered, expected) in [
            (&[][..], &[][..]),
            (&["a/x", "a/y"], &["a/x: a#1=k1@0 a#2=k2@0", "a/y: a#1=k1@1 a#2=k2@1"]),
            (&["a/x", "b/x!", "a/x"], &["a/x: a#1=k1@0 a#2=k2@0"]),
            (&["b/x!"], &[]),
        ] {
            let planned = shared_keys(&targets(offered), |_| given(&["k1", "k2"]));
            assert_eq!(told(&planned), expected, "{offered:?}");
        }
    }

    #[test]
    fn own_keys_are_of_every_target_of_their_provider() {
        let acme: TenantId = "acme".parse().unwrap();
        let offered = targets(&["a/x", "b/x!", "a/y", "a/x"]);
        for (own, expected) in [
            (&[][..], &[][..]),
            (&[("a", "k")], &["a/x: acme/a#1=k@0", "a/y: acme/a#1=k@2"]),
            (&[("b", "k")], &["b/x: acme/b#1=k@1"]),
            (&[("c", "k")], &[]),
            (&[("b", "k1"), ("b", "k2")], &["b/x: acme/b#1=k1@1"]),
        ] {
            let given = own
                .iter()
                .map(|(provider, key)| ((*provider).to_owned(), given(&[key])));
            assert_eq!(told(&own_keys(&acme, &offered, given)), expected, "{own:?}");
        }
    }

    #[test]
    fn a_print_is_of_the_key_its_target_and_its_owner() {
        let (acme, globex): (TenantId, TenantId) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let print = |tenant: Option<&TenantId>, target: &str, secret: &'static str| {
            let target = targets(&[target]).remove(0);
            plan(&target, tenant, given(&[secret])).1.remove(0).print
        };
        let prints = [
            print(None, "a/x", "k"),
            print(None, "a/y", "k"),
            print(None, "b/x", "k"),
            print(None, "a/x", "l"),
            print(Some(&acme), "a/x", "k"),
            print(Some(&globex), "a/x", "k"),
        ];
        let different: HashSet<_> = prints.iter().collect();
        assert_eq!(different.len(), prints.len());
        assert_eq!(prints[0], print(None, "a/x!", "k"), "and of nothing else");
    }
}
