//! Which models a tenant's settings allow.

use std::collections::HashSet;

use wildmatch::WildMatchPattern;

use super::offered::OfferedTarget;
use crate::target::TargetName;

/// A pattern with `*` only: the character that would match any single one (`?` elsewhere) occurs in no name.
type Pattern = WildMatchPattern<'*', '\u{10ffff}'>;

/// The models that a tenant's settings allow; all of them if neither list is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AllowedModels<'a> {
    /// Patterns of `provider/model`, where `*` matches any characters.
    pub allow: Option<&'a [String]>,
    /// Allowed regions of providers; a provider without a region is then not allowed.
    pub regions: Option<&'a [String]>,
}

impl AllowedModels<'_> {
    /// Whether a model of a provider in `region` may be used.
    pub fn allows(&self, provider: &str, model: &str, region: Option<&str>) -> bool {
        let name = format!("{provider}/{model}");
        let is_named = |patterns: &[String]| patterns.iter().any(|pattern| Pattern::new(pattern).matches(&name));
        let is_there = |regions: &[String]| region.is_some_and(|region| regions.iter().any(|known| known == region));
        self.allow.is_none_or(is_named) && self.regions.is_none_or(is_there)
    }

    /// Returns the allowed ones of `targets`; `None` if every target is allowed, also ones added later.
    pub fn only<T>(&self, targets: &[OfferedTarget<T>]) -> Option<HashSet<TargetName>> {
        if *self == Self::default() {
            return None;
        }
        let allowed = targets
            .iter()
            .filter(|target| self.allows(&target.name.provider, &target.name.model, target.region.as_deref()));
        Some(allowed.map(|target| target.name.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn models_are_allowed_by_pattern_and_region() {
        for (allow, regions, expected) in [
            (None, None, true),
            (Some(&["main/gpt-4o"][..]), None, true),
            (Some(&["main/*"]), None, true),
            (Some(&["*"]), None, true),
            (Some(&["*/gpt-4o"]), None, true),
            (Some(&["m*n/*4o"]), None, true),
            (Some(&["main/gpt-4o*"]), None, true),
            (Some(&["main/gpt-4"]), None, false),
            (Some(&["main/gpt-4o-mini", "backup/*"]), None, false),
            (Some(&["main"]), None, false),
            (Some(&["*4o*4o"]), None, false),
            (Some(&["main/gpt-?o"]), None, false),
            (Some(&["**/*"]), None, true),
            (Some(&[]), None, false),
            (None, Some(&["eu", "us"][..]), true),
            (None, Some(&["us"]), false),
            (None, Some(&[]), false),
            (Some(&["main/*"]), Some(&["us"]), false),
            (Some(&["other/*"]), Some(&["eu"]), false),
        ] {
            let (allow, regions) = (allow.map(texts), regions.map(texts));
            let models = AllowedModels {
                allow: allow.as_deref(),
                regions: regions.as_deref(),
            };
            assert_eq!(models.allows("main", "gpt-4o", Some("eu")), expected, "{models:?}");
            assert_eq!(
                models.allows("main", "gpt-4o", None),
                expected && regions.is_none(),
                "a provider without a region is in none: {models:?}"
            );
        }
    }

    #[test]
    fn the_allowed_targets_are_listed_unless_all_are() {
        let target = |provider: &str, model: &str, region: Option<&str>| OfferedTarget {
            name: TargetName {
                provider: provider.to_owned(),
                model: model.to_owned(),
            },
            region: region.map(str::to_owned),
            own_keys_only: false,
            of: (),
        };
        let targets = [
            target("main", "large", Some("eu")),
            target("main", "small", Some("eu")),
            target("other", "large", None),
        ];
        for (allow, regions, expected) in [
            (None, None, None),
            (Some(&["*"][..]), None, Some(&[0, 1, 2][..])),
            (Some(&["*/large"]), None, Some(&[0, 2])),
            (None, Some(&["eu"][..]), Some(&[0, 1])),
            (Some(&["*/large"]), Some(&["eu"]), Some(&[0])),
            (Some(&[]), None, Some(&[])),
        ] {
            let (allow, regions) = (allow.map(texts), regions.map(texts));
            let models = AllowedModels {
                allow: allow.as_deref(),
                regions: regions.as_deref(),
            };
            let expected = expected.map(|which| which.iter().map(|n: &usize| targets[*n].name.clone()).collect());
            assert_eq!(models.only(&targets), expected, "{models:?}");
        }
    }
}
