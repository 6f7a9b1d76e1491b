//! Types that streams and documents share.
//!
//! Only what is read is named, and any of it may be missing, null or odd; additions to the API are skipped.

use copilotd_actors::domain::usage::Usage;

use crate::adapters::llm::provider::lenient::{Count, Members};

/// The usage of a message. A stream reports it twice: the second time what has changed since.
#[derive(Debug, Clone, Copy)]
pub(super) struct WireUsage {
    input: Count,
    cache_creation: Count,
    cache_read: Count,
    output: Count,
    thought: Count,
}

impl Default for WireUsage {
    fn default() -> Self {
        Self::of(&Members::default())
    }
}

impl WireUsage {
    /// Reads a report.
    pub(super) fn of(members: &Members<'_>) -> Self {
        let details = Members::of(members.get("output_tokens_details")).unwrap_or_default();
        Self {
            input: members.count("input_tokens"),
            cache_creation: members.count("cache_creation_input_tokens"),
            cache_read: members.count("cache_read_input_tokens"),
            output: members.count("output_tokens"),
            thought: details.count("thinking_tokens"),
        }
    }

    /// Merges a later report into this one.
    pub(super) fn update(&mut self, later: Self) {
        let or = |later: Count, known: Count| if later == Count::Missing { known } else { later };
        *self = Self {
            input: or(later.input, self.input),
            cache_creation: or(later.cache_creation, self.cache_creation),
            cache_read: or(later.cache_read, self.cache_read),
            output: or(later.output, self.output),
            thought: or(later.thought, self.thought),
        };
    }

    /// Returns the usage. Anthropic counts tokens read from and written to its cache separately from the rest of the
    /// prompt. An empty report is no report, and neither is an implausible one.
    pub(super) fn read(self) -> Option<Usage> {
        if self.input == Count::Odd || self.output == Count::Odd {
            return None;
        }
        let known = |count: Count| count.known().unwrap_or(0);
        let (cached_tokens, cache_write_tokens) = (known(self.cache_read), known(self.cache_creation));
        let usage = Usage {
            prompt_tokens: known(self.input)
                .saturating_add(cached_tokens)
                .saturating_add(cache_write_tokens),
            completion_tokens: known(self.output),
            cached_tokens,
            cache_write_tokens,
            reasoning_tokens: known(self.thought),
            ..Usage::default()
        };
        (usage.total_tokens() > 0).then_some(usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cache_read_and_wrote_is_part_of_the_prompt() {
        let wire = |text: &str| WireUsage::of(&Members::read(text).unwrap());
        let mut usage = wire(
            r#"{"input_tokens":10,"cache_read_input_tokens":300,"cache_creation_input_tokens":50,"output_tokens":1,"service_tier":"standard"}"#,
        );
        usage.update(wire(
            r#"{"output_tokens":42,"input_tokens":null,"output_tokens_details":{"thinking_tokens":20}}"#,
        ));
        let expected = Usage {
            prompt_tokens: 360,
            completion_tokens: 42,
            cached_tokens: 300,
            cache_write_tokens: 50,
            reasoning_tokens: 20,
            ..Usage::default()
        };
        assert_eq!(usage.read(), Some(expected));
        assert_eq!(wire("{}").read(), None);
        assert_eq!(wire(r#"{"input_tokens":3,"output_tokens":-35}"#).read(), None);
        assert_eq!(
            wire(r#"{"input_tokens":"3","output_tokens":2.0}"#)
                .read()
                .unwrap()
                .total_tokens(),
            5
        );
        assert_eq!(wire(r#"{"input_tokens":0,"output_tokens":0}"#).read(), None);
    }
}
