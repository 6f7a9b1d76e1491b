//! The knobs of the simulated Zendesk and Slack: latency, failures, held answers.

use axum::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Everything that can be adjusted while the simulator runs.
///
/// `POST /_sim/knobs` names the ones to change; `null` turns one off.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Knobs {
    /// Delay of every answer.
    pub(crate) latency_ms: u64,
    /// Requests that will fail; the first matching entry applies.
    pub(crate) fail_next: Vec<Fault>,
    /// Requests whose answer waits for `POST /_sim/release`.
    pub(crate) hold: Option<Hold>,
    /// Rate limit; requests beyond it get 429 with `Retry-After`.
    pub(crate) rate_limit_per_minute: Option<u64>,
    /// Incremental exports per minute of Zendesk, instead of the 10 of its plans.
    pub(crate) exports_per_minute: Option<u64>,
    /// Most records of a page of Zendesk's incremental exports.
    pub(crate) export_page: Option<usize>,
    /// The only token that is accepted; any other gets the vendor's error.
    pub(crate) require_token: Option<String>,
}

impl Knobs {
    /// Changes the named knobs.
    pub(crate) fn merge(&mut self, changes: &Value) -> Result<(), String> {
        let Value::Object(changes) = changes else {
            return Err("knobs must be a JSON object".to_owned());
        };
        let mut all = serde_json::to_value(&*self).map_err(|error| error.to_string())?;
        let defaults = serde_json::to_value(Self::default()).map_err(|error| error.to_string())?;
        for (name, value) in changes {
            let value = match value {
                Value::Null => defaults.get(name).cloned().unwrap_or(Value::Null),
                value => value.clone(),
            };
            all[name] = value;
        }
        *self = serde_json::from_value(all).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Returns the fault for this request, if any, and decrements its count.
    pub(crate) fn take_fault(&mut self, method: &Method, path: &str) -> Option<Fault> {
        let at = self.fail_next.iter().position(|fault| fault.on.matches(method, path))?;
        let fault = self.fail_next[at].clone();
        if fault.times <= 1 {
            self.fail_next.remove(at);
        } else {
            self.fail_next[at].times -= 1;
        }
        Some(fault)
    }

    /// Returns the hold if it applies to this request.
    pub(crate) fn hold_for(&self, method: &Method, path: &str) -> Option<Hold> {
        self.hold.clone().filter(|hold| hold.on.matches(method, path))
    }
}

/// Selects requests that match both fields.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct On {
    method: Option<String>,
    path_contains: Option<String>,
}

impl On {
    fn matches(&self, method: &Method, path: &str) -> bool {
        self.method
            .as_deref()
            .is_none_or(|wanted| wanted.eq_ignore_ascii_case(method.as_str()))
            && self.path_contains.as_deref().is_none_or(|part| path.contains(part))
    }
}

/// A failure to be injected.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Fault {
    #[serde(flatten)]
    pub(crate) on: On,
    /// Whether only the first half of the answer's body is sent.
    #[serde(default)]
    pub(crate) torn: bool,
    /// HTTP status to answer; without one the connection is cut instead.
    #[serde(default)]
    pub(crate) status: Option<u16>,
    /// Seconds in `Retry-After`.
    #[serde(default)]
    pub(crate) retry_after: Option<u64>,
    /// Number of requests that fail.
    #[serde(default = "once")]
    pub(crate) times: u64,
    /// Whether the request is carried out before it fails, which the caller cannot know.
    #[serde(default)]
    pub(crate) apply: bool,
}

fn once() -> u64 {
    1
}

/// Requests whose answers wait for a release.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Hold {
    #[serde(flatten)]
    pub(crate) on: On,
    /// Whether the request is carried out at once (and only its answer waits) or at the release.
    #[serde(default)]
    pub(crate) apply_first: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn named_knobs_change_and_null_turns_off() {
        let mut knobs = Knobs::default();
        knobs
            .merge(&json!({"latency_ms": 5, "hold": {"method": "POST"}}))
            .expect("valid");
        knobs
            .merge(&json!({"hold": null, "fail_next": [{"path_contains": "tickets", "status": 503, "times": 2}]}))
            .expect("valid");
        assert_eq!(knobs.latency_ms, 5);
        assert!(knobs.hold.is_none());
        assert!(knobs.merge(&json!({"latency": 5})).is_err());
        assert!(knobs.take_fault(&Method::GET, "/users").is_none());
        assert!(knobs.take_fault(&Method::GET, "/tickets").is_some());
        assert!(knobs.take_fault(&Method::PUT, "/tickets").is_some());
        assert!(knobs.take_fault(&Method::PUT, "/tickets").is_none());
    }
}
