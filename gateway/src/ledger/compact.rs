//! The stored form of an open attempt's record.
//!
//! A JSON array of the values alone, in the order of the fields: SQLite writes a whole page for each update, and a second
//! one for a record that does not fit into a quarter of a page, as one with the names of its fields would not. Records
//! of earlier releases are JSON objects; both forms are read, by earlier releases too.

use serde::ser::SerializeTuple as _;
use serde::{Serialize, Serializer};

use super::UsageRecord;
use copilotd_actors::domain::usage::Usage;

/// Encodes the record of an open attempt.
///
/// # Errors
/// If a value cannot be encoded, which no value of a record is known to cause.
pub fn write_open(record: &UsageRecord) -> serde_json::Result<String> {
    serde_json::to_string(&Values(record))
}

/// Parses the stored record of an open attempt. One that cannot be parsed is logged and lost.
pub fn read_open(text: &str) -> Option<UsageRecord> {
    let record = serde_json::from_str(text);
    if let Err(error) = &record {
        tracing::error!(%error, "stored record of an in-flight model call cannot be parsed; its usage is lost");
    }
    record.ok()
}

/// A record without the names of its fields. Invariant: the order of the values is that of the fields, by which serde
/// reads an array; both orders are part of what is stored and never change. A new field comes last and has a default.
struct Values<'a>(&'a UsageRecord);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let UsageRecord {
            id,
            tenant,
            at,
            user,
            api_key,
            copilot,
            conversation,
            turn,
            purpose,
            route,
            provider,
            model,
            key,
            attempt,
            usage,
            is_estimated,
            cache,
            outcome,
            first_content_ms,
            took_ms,
        } = self.0;
        let mut values = serializer.serialize_tuple(20)?;
        values.serialize_element(id)?;
        values.serialize_element(tenant)?;
        values.serialize_element(at)?;
        values.serialize_element(user)?;
        values.serialize_element(api_key)?;
        values.serialize_element(copilot)?;
        values.serialize_element(conversation)?;
        values.serialize_element(turn)?;
        values.serialize_element(purpose)?;
        values.serialize_element(route)?;
        values.serialize_element(provider)?;
        values.serialize_element(model)?;
        values.serialize_element(key)?;
        values.serialize_element(attempt)?;
        values.serialize_element(&UsageValues(usage))?;
        values.serialize_element(is_estimated)?;
        values.serialize_element(cache)?;
        values.serialize_element(outcome)?;
        values.serialize_element(first_content_ms)?;
        values.serialize_element(took_ms)?;
        values.end()
    }
}

/// Usage without the names of its fields; see [`Values`].
struct UsageValues<'a>(&'a Usage);

impl Serialize for UsageValues<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Usage {
            prompt_tokens,
            completion_tokens,
            cached_tokens,
            cache_write_tokens,
            reasoning_tokens,
            cost,
            estimated,
        } = *self.0;
        let tokens = [
            prompt_tokens,
            completion_tokens,
            cached_tokens,
            cache_write_tokens,
            reasoning_tokens,
        ];
        let mut values = serializer.serialize_tuple(7)?;
        for count in tokens {
            values.serialize_element(&count)?;
        }
        values.serialize_element(&cost)?;
        values.serialize_element(&estimated)?;
        values.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longest record that SQLite keeps in one page of 2 KiB together with others.
    const INLINE: usize = 488 - 16 - 8;

    fn record() -> UsageRecord {
        UsageRecord {
            id: uuid::Uuid::from_u128(7),
            tenant: "acme-corporation".parse().unwrap(),
            at: "2026-11-30T12:00:00.123456789Z".parse().unwrap(),
            user: "somebody@customer.example".to_owned(),
            api_key: Some("production".to_owned()),
            copilot: Some("support".to_owned()),
            conversation: Some("conv_0192f3c1-7d4e-7a0b-9c3d-5e6f708192a3".to_owned()),
            turn: Some("turn_0192f3c1-7d4e-7a0b-9c3d-5e6f708192a4".to_owned()),
            purpose: "turn".to_owned(),
            route: "default".to_owned(),
            provider: "anthropic".to_owned(),
            model: "claude-sonnet-4-5-20250929".to_owned(),
            key: "main".to_owned(),
            attempt: 2,
            usage: Usage {
                prompt_tokens: 12_345,
                completion_tokens: 678,
                cached_tokens: 9,
                cache_write_tokens: 10,
                reasoning_tokens: 11,
                cost: 987_654_321,
                estimated: true,
            },
            is_estimated: true,
            cache: "bypass".to_owned(),
            outcome: "lost".to_owned(),
            first_content_ms: Some(345),
            took_ms: 6_789,
        }
    }

    #[test]
    fn open_records_are_read_back_and_fit_into_a_page() {
        let text = write_open(&record()).unwrap();
        assert_eq!(read_open(&text), Some(record()), "{text}");
        assert!(text.len() <= INLINE, "{} bytes: {text}", text.len());
    }

    #[test]
    fn records_of_earlier_releases_are_read() {
        let text = serde_json::to_string(&record()).unwrap();
        assert_eq!(read_open(&text), Some(record()));
        let stored = r#"["00000000-0000-0000-0000-000000000007","acme","2026-11-30T12:00:00Z","ann",null,null,null,null,
            "endpoint","default","main","sim","key",1,[3,4,0,0,0,5,true],true,"bypass","lost",null,250]"#;
        let read = read_open(stored).unwrap();
        assert_eq!((read.user.as_str(), read.attempt, read.took_ms), ("ann", 1, 250));
        assert_eq!((read.usage.completion_tokens, read.usage.cost), (4, 5));
        assert_eq!(read_open("[]"), None);
    }
}
