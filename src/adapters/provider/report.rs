//! The chunk that reports usage, as callers of the endpoint get it.

use bytes::Bytes;
use copilotd_actors::domain::usage::{NanoUsd, dollars};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Writes what an answer cost into its report of usage, whose other bytes stay as they are.
pub fn priced(report: Bytes, cost: NanoUsd) -> Bytes {
    #[derive(Deserialize)]
    struct Report<'a> {
        #[serde(borrow)]
        usage: &'a RawValue,
    }
    let Ok(Report { usage }) = serde_json::from_slice(&report) else {
        return report;
    };
    let Some(members) = usage.get().strip_suffix('}') else {
        return report;
    };
    let comma = if members.trim_end().ends_with('{') { "" } else { "," };
    let cost = format!("{comma}\"cost_usd\":{}", dollars(cost));
    // The value is a slice of the report.
    let at = members.as_ptr().addr() - report.as_ptr().addr() + members.len();
    let (before, behind) = report.split_at(at);
    [before, cost.as_bytes(), behind].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_keeps_its_bytes_and_gets_a_price() {
        for (report, expected) in [
            (
                r#"{"usage": {"prompt_tokens":3, "x":1.00 } ,"choices":[],"y":"}"}"#,
                r#"{"usage": {"prompt_tokens":3, "x":1.00 ,"cost_usd":0.000000012} ,"choices":[],"y":"}"}"#,
            ),
            (r#"{"usage":{ }}"#, r#"{"usage":{ "cost_usd":0.000000012}}"#),
            (r#"{"usage":null}"#, r#"{"usage":null}"#),
            ("{}", "{}"),
        ] {
            assert_eq!(priced(Bytes::from_static(report.as_bytes()), 12), expected);
        }
    }
}
