//! Scripts: responses queued by a test for requests whose last user message contains a text.

use std::collections::VecDeque;

use serde::Deserialize;

use super::step::Step;

/// The body of `POST /_sim/script`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Script {
    /// Part of the last user message, or `*` for every request.
    #[serde(rename = "match")]
    pattern: String,
    /// Only requests for this model; by default for any.
    #[serde(default)]
    model: Option<String>,
    /// How often the steps are repeated.
    #[serde(default = "once")]
    times: u64,
    /// One response each, in this order.
    steps: Vec<Step>,
}

fn once() -> u64 {
    1
}

impl Script {
    fn matches(&self, model: &str, last_user: &str) -> bool {
        let is_for = self.model.as_deref().is_none_or(|of| of == model);
        is_for && (self.pattern == "*" || last_user.contains(&self.pattern))
    }
}

/// Scripts that are queued.
#[derive(Debug, Default)]
pub(crate) struct Scripts(VecDeque<Queued>);

#[derive(Debug)]
struct Queued {
    script: Script,
    next: usize,
}

impl Scripts {
    pub(crate) fn push(&mut self, script: Script) -> Result<(), &'static str> {
        if script.steps.is_empty() || script.times == 0 {
            return Err("a script needs at least one step and one time");
        }
        self.0.push_back(Queued { script, next: 0 });
        Ok(())
    }

    /// Returns the next step of the first matching script, and uses it up.
    pub(crate) fn take(&mut self, model: &str, last_user: &str) -> Option<Step> {
        let at = self
            .0
            .iter()
            .position(|queued| queued.script.matches(model, last_user))?;
        let queued = &mut self.0[at];
        let step = queued.script.steps[queued.next].clone();
        queued.next += 1;
        if queued.next == queued.script.steps.len() {
            queued.next = 0;
            queued.script.times -= 1;
            if queued.script.times == 0 {
                self.0.remove(at);
            }
        }
        Some(step)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.0.len()
    }
}
