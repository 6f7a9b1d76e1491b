//! Usage reports in the endpoint's answers: the ledger's numbers, with their cost.

use bytes::Bytes;
use copilotd_actors::domain::usage::{Usage, dollars};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::body::Members;

/// What carries the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportCarrier {
    /// A chunk of a stream. It includes the cost, which a document has in a header.
    Chunk,
    /// A completion. A report is added if there is none.
    Completion,
    /// A list of embeddings, which has prompt tokens only. A report is added if there is none.
    Embeddings,
}

/// Members of a report that are ours.
const COST: &str = "cost_usd";
const ESTIMATED: &str = "estimated";

#[derive(Deserialize)]
struct Report<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

/// Writes `usage` into a body's report. Bytes that need no change, and bodies that cannot be parsed, stay as they are.
pub fn write(body: Bytes, carrier: ReportCarrier, usage: &Usage) -> Bytes {
    let Some(Report { usage: found }) = read(&body) else {
        return body;
    };
    let Some(found) = found.filter(|raw| raw.get() != "null") else {
        return if carrier == ReportCarrier::Chunk {
            body
        } else {
            added(&body, carrier, usage)
        };
    };
    let written = members(found, carrier, usage);
    // The value is a slice of the body.
    let at = found.get().as_ptr().addr() - body.as_ptr().addr();
    let (before, behind) = (&body[..at], &body[at + found.get().len()..]);
    [before, written.as_bytes(), behind].concat().into()
}

/// Parses an object; a list gives `None`.
fn read(body: &[u8]) -> Option<Report<'_>> {
    let is_object = body.trim_ascii_start().starts_with(b"{");
    is_object.then(|| serde_json::from_slice(body).ok())?
}

/// Whether a chunk carries a report.
pub fn is_report(chunk: &[u8]) -> bool {
    read(chunk)
        .and_then(|report| report.usage)
        .is_some_and(|usage| usage.get() != "null")
}

/// Builds the chunk that reports `usage`, with the identity of another chunk of its answer.
pub fn chunk(first: &[u8], usage: &Usage) -> Bytes {
    let first: Value = serde_json::from_slice(first).unwrap_or(Value::Null);
    let member = |name: &str| first.get(name).cloned().unwrap_or(Value::Null);
    let report = json!({
        "id": member("id"), "object": "chat.completion.chunk", "created": member("created"), "model": member("model"),
        "choices": [], "usage": {},
    });
    write(report.to_string().into(), ReportCarrier::Chunk, usage)
}

/// Adds a report to a document that has none.
fn added(body: &[u8], carrier: ReportCarrier, usage: &Usage) -> Bytes {
    let Ok(all) = Members::parse(body) else {
        return Bytes::copy_from_slice(body);
    };
    let report = RawValue::from_string(members(RawValue::NULL, carrier, usage)).ok();
    super::body::write_members(&all, &[("usage", report)])
}

/// Writes the members of a report. If all its numbers are already right, ours are appended to the original bytes.
fn members(found: &RawValue, carrier: ReportCarrier, usage: &Usage) -> String {
    let mut known: Map<String, Value> = serde_json::from_str(found.get()).unwrap_or_default();
    let is_ours = known.contains_key(COST) || known.contains_key(ESTIMATED);
    let is_right = is_right(&known, carrier, usage);
    if !is_ours && is_right && found.get().starts_with('{') {
        let behind = ours(carrier, usage);
        let members = found.get().strip_suffix('}').unwrap_or_default();
        let comma = if behind.is_empty() || members.trim_end().ends_with('{') {
            ""
        } else {
            ","
        };
        return format!("{members}{comma}{behind}}}");
    }
    known.retain(|name, _| name != COST && name != ESTIMATED);
    if !is_right {
        correct(&mut known, carrier, usage);
    }
    let mut written = Value::Object(known).to_string();
    let behind = ours(carrier, usage);
    if !behind.is_empty() {
        written.pop();
        let comma = if written.ends_with('{') { "" } else { "," };
        written = format!("{written}{comma}{behind}}}");
    }
    written
}

/// Sets the numbers of a report to those of `usage`.
fn correct(known: &mut Map<String, Value>, carrier: ReportCarrier, usage: &Usage) {
    known.insert("prompt_tokens".to_owned(), json!(usage.prompt_tokens));
    if carrier != ReportCarrier::Embeddings {
        known.insert("completion_tokens".to_owned(), json!(usage.completion_tokens));
    }
    known.insert("total_tokens".to_owned(), json!(usage.total_tokens()));
    for (details, name, tokens) in details(usage) {
        let inside = known.get(details).is_some_and(|details| details.get(name).is_some());
        if tokens == 0 && !inside {
            continue;
        }
        let details = known.entry(details).or_insert_with(|| json!({}));
        if !details.is_object() {
            *details = json!({});
        }
        details[name] = json!(tokens);
    }
}

/// Our members of a report. Money is written exactly.
fn ours(carrier: ReportCarrier, usage: &Usage) -> String {
    let cost = (carrier == ReportCarrier::Chunk).then(|| format!("\"{COST}\":{}", dollars(usage.cost)));
    let estimated = usage.estimated.then(|| format!("\"{ESTIMATED}\":true"));
    let ours: Vec<String> = cost.into_iter().chain(estimated).collect();
    ours.join(",")
}

fn details(usage: &Usage) -> [(&'static str, &'static str, u64); 3] {
    [
        ("prompt_tokens_details", "cached_tokens", usage.cached_tokens),
        ("prompt_tokens_details", "cache_write_tokens", usage.cache_write_tokens),
        ("completion_tokens_details", "reasoning_tokens", usage.reasoning_tokens),
    ]
}

/// Whether the numbers of a report are those of `usage`. A missing one counts as 0; the total may be missing.
fn is_right(known: &Map<String, Value>, carrier: ReportCarrier, usage: &Usage) -> bool {
    let is = |value: Option<&Value>, expected: u64| match value {
        None | Some(Value::Null) => expected == 0,
        Some(value) => value.as_u64() == Some(expected),
    };
    is(known.get("prompt_tokens"), usage.prompt_tokens)
        && (carrier == ReportCarrier::Embeddings || is(known.get("completion_tokens"), usage.completion_tokens))
        && (known.get("total_tokens").is_none() || is(known.get("total_tokens"), usage.total_tokens()))
        && details(usage)
            .iter()
            .all(|(details, name, tokens)| is(known.get(*details).and_then(|details| details.get(name)), *tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt_tokens: u64, completion_tokens: u64, cost: u64) -> Usage {
        Usage {
            prompt_tokens,
            completion_tokens,
            cost,
            ..Usage::default()
        }
    }

    fn estimated(usage: Usage) -> Usage {
        Usage {
            estimated: true,
            ..usage
        }
    }

    #[test]
    fn a_report_that_is_right_keeps_its_bytes_and_gets_a_price() {
        for (report, expected) in [
            (
                r#"{"usage": {"prompt_tokens":3, "x":1.00 } ,"choices":[],"y":"}"}"#,
                r#"{"usage": {"prompt_tokens":3, "x":1.00 ,"cost_usd":0.000000012} ,"choices":[],"y":"}"}"#,
            ),
            (r#"{"usage":null}"#, r#"{"usage":null}"#),
            ("{}", "{}"),
            ("[1]", "[1]"),
        ] {
            let written = write(
                Bytes::from_static(report.as_bytes()),
                ReportCarrier::Chunk,
                &usage(3, 0, 12),
            );
            assert_eq!(written, expected);
        }
        let empty = write(
            Bytes::from_static(br#"{"usage":{ }}"#),
            ReportCarrier::Chunk,
            &usage(0, 0, 12),
        );
        assert_eq!(empty, r#"{"usage":{ "cost_usd":0.000000012}}"#);
    }

    #[test]
    fn a_report_that_is_not_right_becomes_it() {
        let cached = Usage {
            cached_tokens: 2,
            ..usage(3, 4, 7)
        };
        for (report, usage, expected) in [
            (
                r#"{"a":1.0,"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10,"x":1.5},"b":2.0}"#,
                usage(12, 4, 7),
                r#"{"a":1.0,"usage":{"prompt_tokens":12,"completion_tokens":4,"total_tokens":16,"x":1.5,"cost_usd":0.000000007},"b":2.0}"#,
            ),
            // The price of another gateway, and a price below zero.
            (
                r#"{"usage":{"prompt_tokens":3,"cost_usd":-5.0,"completion_tokens":4,"total_tokens":7}}"#,
                usage(3, 4, 7),
                r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"cost_usd":0.000000007}}"#,
            ),
            (
                r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":50,"y":1}}}"#,
                cached,
                r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":2,"y":1},"total_tokens":7,"cost_usd":0.000000007}}"#,
            ),
            (
                r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":null}}"#,
                cached,
                r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":2},"total_tokens":7,"cost_usd":0.000000007}}"#,
            ),
            (
                r#"{"usage":{"prompt_tokens":3,"completion_tokens":4}}"#,
                estimated(usage(3, 4, 7)),
                r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"cost_usd":0.000000007,"estimated":true}}"#,
            ),
            (
                r#"{"usage":7,"x":1}"#,
                usage(0, 0, 7),
                r#"{"usage":{"cost_usd":0.000000007},"x":1}"#,
            ),
            (
                r#"{"usage":{"prompt_tokens":"3","completion_tokens":4.0}}"#,
                usage(3, 4, 7),
                r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"cost_usd":0.000000007}}"#,
            ),
        ] {
            let written = write(Bytes::from_static(report.as_bytes()), ReportCarrier::Chunk, &usage);
            assert_eq!(written, expected);
            assert_eq!(write(written, ReportCarrier::Chunk, &usage), expected, "written twice");
        }
    }

    #[test]
    fn documents_get_a_report_where_they_have_none_and_no_price() {
        for (carrier, document, expected) in [
            (
                ReportCarrier::Completion,
                r#"{"id":"x","choices":[ 1.50 ]}"#,
                r#"{"id":"x","choices":[ 1.50 ],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"estimated":true}}"#,
            ),
            (
                ReportCarrier::Completion,
                r#"{"usage":null,"id":"x"}"#,
                r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"estimated":true},"id":"x"}"#,
            ),
            (
                ReportCarrier::Completion,
                r#"{"usage":{"prompt_tokens":3,"completion_tokens":4} }"#,
                r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"estimated":true} }"#,
            ),
        ] {
            let written = write(
                Bytes::from_static(document.as_bytes()),
                carrier,
                &estimated(usage(3, 4, 7)),
            );
            assert_eq!(written, expected);
        }
        let list = Bytes::from_static(br#"{"data":[]}"#);
        let written = write(list, ReportCarrier::Embeddings, &estimated(usage(3, 0, 7)));
        assert_eq!(
            written,
            r#"{"data":[],"usage":{"prompt_tokens":3,"total_tokens":3,"estimated":true}}"#
        );
        let right = Bytes::from_static(br#"{"usage":{"prompt_tokens":3, "completion_tokens":4} }"#);
        assert_eq!(write(right.clone(), ReportCarrier::Completion, &usage(3, 4, 7)), right);
    }

    #[test]
    fn a_chunk_of_our_own_has_its_answers_identity() {
        let made = chunk(br#"{"id":"a","created":5,"model":"m","choices":[{}]}"#, &usage(3, 4, 7));
        assert!(is_report(&made));
        let made: Value = serde_json::from_slice(&made).unwrap();
        assert_eq!(
            made,
            json!({"id": "a", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": [],
                   "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "cost_usd": 0.000_000_007}})
        );
        for other in [&b"{}"[..], br#"{"usage":null}"#, b"no json"] {
            assert!(!is_report(other));
        }
    }
}
