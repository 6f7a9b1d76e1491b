//! Built-in list prices, for models without a price in the configuration.
//!
//! `scripts/prices` updates the table, which names its source, date and licence.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use copilotd_actors::domain::usage::Price;
use reqwest::Url;
use serde::Deserialize;

use super::ModelPrice;

/// Host names, or their ends, with the vendors' names in the table. Other servers have no list price: on one's own
/// machine the same model costs nothing.
const HOSTS: &[(&str, &[&str])] = &[
    ("api.anthropic.com", &["anthropic"]),
    ("openai.azure.com", &["azure", "azure_ai"]),
    ("cognitiveservices.azure.com", &["azure", "azure_ai"]),
    ("services.ai.azure.com", &["azure_ai", "azure"]),
    ("models.ai.azure.com", &["azure_ai"]),
    ("api.cerebras.ai", &["cerebras"]),
    ("api.cohere.com", &["cohere"]),
    ("api.cohere.ai", &["cohere"]),
    ("dashscope.aliyuncs.com", &["dashscope"]),
    ("dashscope-intl.aliyuncs.com", &["dashscope"]),
    ("api.deepinfra.com", &["deepinfra"]),
    ("api.deepseek.com", &["deepseek"]),
    ("api.fireworks.ai", &["fireworks_ai"]),
    ("generativelanguage.googleapis.com", &["gemini"]),
    ("api.groq.com", &["groq"]),
    ("api.hyperbolic.xyz", &["hyperbolic"]),
    ("api.mistral.ai", &["mistral"]),
    ("api.moonshot.ai", &["moonshot"]),
    ("api.studio.nebius.com", &["nebius"]),
    ("api.novita.ai", &["novita"]),
    ("api.openai.com", &["openai"]),
    ("api.perplexity.ai", &["perplexity"]),
    ("api.sambanova.ai", &["sambanova"]),
    ("api.together.xyz", &["together_ai"]),
    ("api.together.ai", &["together_ai"]),
    ("api.voyageai.com", &["voyage"]),
    ("api.x.ai", &["xai"]),
];

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    // A damaged table must not stop the process; it only loses list prices. A test parses it.
    serde_json::from_str(include_str!("table.json")).unwrap_or_default()
});

/// Prices by vendor and model.
#[derive(Debug, Default, Deserialize)]
struct Table {
    prices: BTreeMap<String, BTreeMap<String, Listed>>,
}

/// US dollars per million tokens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    input: f64,
    cached_input: Option<f64>,
    cache_write: Option<f64>,
    output: f64,
    reasoning: Option<f64>,
}

/// Returns the list price of `model` at this address, if vendor and model are known. Where a vendor charges more for
/// long prompts, it is the price of short ones.
pub(super) fn list_price(base_url: &str, model: &str) -> Option<Price> {
    let url = Url::parse(base_url).ok()?;
    let host = url.host_str()?;
    let is_at = |name: &str| {
        host.strip_suffix(name)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let (_, vendors) = HOSTS.iter().find(|(name, _)| is_at(name))?;
    let listed = vendors
        .iter()
        .find_map(|vendor| TABLE.prices.get(*vendor)?.get(model))?;
    let price = ModelPrice {
        model: model.to_owned(),
        from: None,
        input: listed.input,
        cached_input: listed.cached_input,
        cache_write: listed.cache_write,
        output: listed.output,
        reasoning: listed.reasoning,
    };
    Some(price.price())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_price_in_the_table_counts_and_every_vendor_can_be_reached() {
        let table: Table = serde_json::from_str(include_str!("table.json")).unwrap();
        let vendors: BTreeSet<&str> = table.prices.keys().map(String::as_str).collect();
        let reached: BTreeSet<&str> = HOSTS.iter().flat_map(|(_, vendors)| *vendors).copied().collect();
        assert_eq!(vendors, reached);
        for (vendor, models) in &table.prices {
            assert!(!models.is_empty(), "{vendor}");
            for (model, listed) in models {
                let parts = [
                    Some(listed.input),
                    listed.cached_input,
                    listed.cache_write,
                    Some(listed.output),
                    listed.reasoning,
                ];
                let sane = |price: &f64| (0.0..10_000.0).contains(price);
                assert!(
                    listed.input > 0.0 && parts.iter().flatten().all(sane),
                    "{vendor} {model}"
                );
            }
        }
    }

    #[test]
    fn a_price_belongs_to_a_vendor_and_not_to_a_name() {
        for (base_url, model, known) in [
            ("https://api.openai.com/v1", "gpt-4o", true),
            ("https://API.OpenAI.com/v1", "gpt-4o", true),
            ("https://eu.api.openai.com/v1", "gpt-4o", true),
            ("https://acme.openai.azure.com/openai/v1", "gpt-4o", true),
            ("https://api.openai.com/v1", "text-embedding-3-small", true),
            ("https://api.mistral.ai/v1", "mistral-large-latest", true),
            (
                "https://generativelanguage.googleapis.com/v1beta/openai",
                "gemini-2.5-pro",
                true,
            ),
            ("https://api.openai.com/v1", "nobody-knows", false),
            ("https://notapi.openai.com.example.com/v1", "gpt-4o", false),
            ("https://xapi.openai.com/v1", "gpt-4o", false),
            ("http://127.0.0.1:8000/v1", "gpt-4o", false),
            ("no address", "gpt-4o", false),
        ] {
            assert_eq!(list_price(base_url, model).is_some(), known, "{base_url} {model}");
        }
        let price = list_price("https://api.openai.com/v1", "gpt-4o").unwrap();
        assert_eq!(
            (price.input, price.cached_input, price.output),
            (2_500_000_000, 1_250_000_000, 10_000_000_000)
        );
    }
}
