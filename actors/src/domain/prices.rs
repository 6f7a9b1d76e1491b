//! Prices of models by date: a new price does not change the cost of earlier usage.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::usage::{NanoUsd, Price, Usage};

/// The prices of one model over time.
///
/// Invariant: sorted by date, each date once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PriceHistory(Vec<(Timestamp, Price)>);

impl PriceHistory {
    /// Sets the price of the model from `from` on.
    pub fn add(&mut self, from: Timestamp, price: Price) {
        match self.0.binary_search_by_key(&from, |(at, _)| *at) {
            Ok(place) => self.0[place].1 = price,
            Err(place) => self.0.insert(place, (from, price)),
        }
    }

    /// Returns the price at a point in time; none before the first one.
    pub fn at(&self, at: Timestamp) -> Option<Price> {
        let after = self.0.partition_point(|(from, _)| *from <= at);
        after.checked_sub(1).map(|place| self.0[place].1)
    }
}

/// The prices of all models. Cheap to clone; a new configuration is a new value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PriceList(Arc<BTreeMap<String, PriceHistory>>);

impl PriceList {
    /// Returns the price of `model` at a point in time, if one is known.
    pub fn at(&self, model: &str, at: Timestamp) -> Option<Price> {
        self.0.get(model)?.at(at)
    }

    /// Returns the cost of `usage` of `model` at a point in time; 0 if no price is known.
    pub fn cost(&self, model: &str, at: Timestamp, usage: &Usage) -> NanoUsd {
        self.at(model, at).map_or(0, |price| price.cost(usage))
    }

    /// Returns the price history of `model`; empty if the model is unknown.
    pub fn history(&self, model: &str) -> PriceHistory {
        self.0.get(model).cloned().unwrap_or_default()
    }
}

impl FromIterator<(String, Timestamp, Price)> for PriceList {
    fn from_iter<I: IntoIterator<Item = (String, Timestamp, Price)>>(prices: I) -> Self {
        let mut models: BTreeMap<String, PriceHistory> = BTreeMap::new();
        for (model, from, price) in prices {
            models.entry(model).or_default().add(from, price);
        }
        Self(Arc::new(models))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: &str) -> Timestamp {
        format!("{day}T00:00:00Z").parse().unwrap()
    }

    #[test]
    fn history_stays_true_when_a_price_changes() {
        let list: PriceList = [
            ("m".to_owned(), at("2026-06-01"), Price::flat(20, 200)),
            ("m".to_owned(), at("2026-01-01"), Price::flat(10, 100)),
            ("always".to_owned(), Timestamp::MIN, Price::flat(1, 2)),
        ]
        .into_iter()
        .collect();
        let input = |model, day| list.at(model, at(day)).map(|price| price.input);
        assert_eq!(input("m", "2025-12-31"), None);
        assert_eq!(input("m", "2026-01-01"), Some(10));
        assert_eq!(input("m", "2026-05-31"), Some(10));
        assert_eq!(input("m", "2026-06-01"), Some(20));
        assert_eq!(input("m", "2030-01-01"), Some(20));
        assert_eq!(input("always", "1970-01-01"), Some(1));
        assert_eq!(input("unknown", "2026-06-01"), None);
        let usage = Usage {
            completion_tokens: 1_000_000,
            ..Usage::default()
        };
        assert_eq!(list.cost("m", at("2026-06-01"), &usage), 200);
        assert_eq!(list.cost("unknown", at("2026-06-01"), &usage), 0);
    }
}
