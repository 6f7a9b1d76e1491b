//! Optional parameters that we add to a caller's request, and which of them a server rejects.
//!
//! Servers that copied the protocol reject unknown parameters, with 400 or 422 and texts of their own. When such an
//! error names a parameter that was added here, the request is sent again without it. If that succeeds, the parameter
//! is omitted for this model of this server from then on, until the process ends.

use std::ops::BitOr;
use std::sync::atomic::{AtomicU8, Ordering};

use copilotd_actors::domain::failure::FailureClass;

use super::deployment::SendError;

/// A set of parameters added to a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddedParameters(u8);

impl AddedParameters {
    /// `stream_options`, which requests the usage report.
    pub const STREAM_OPTIONS: Self = Self(1);
    /// `user`, which tells users apart.
    pub const USER: Self = Self(2);
    pub const PARALLEL_TOOL_CALLS: Self = Self(4);
    pub const PROMPT_CACHE_KEY: Self = Self(8);

    /// Each parameter, with the words by which an error names it.
    const NAMES: [(Self, &'static [&'static str]); 4] = [
        (
            Self::STREAM_OPTIONS,
            &["stream_options", "include_usage", "streamoptions"],
        ),
        (Self::USER, &["user"]),
        (Self::PARALLEL_TOOL_CALLS, &["parallel_tool_calls"]),
        (Self::PROMPT_CACHE_KEY, &["prompt_cache_key"]),
    ];

    /// Returns whether it includes `others`.
    pub fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Returns whether it is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns those parameters that an error names, in JSON or in plain words.
    pub fn refused(self, refused: &SendError) -> Self {
        let is_refusal = refused.error.class == FailureClass::Rejected && matches!(refused.status, Some(400 | 422));
        if !is_refusal {
            return Self::default();
        }
        let said = refused.said.to_lowercase();
        let named = |(member, words): &(Self, &[&str])| {
            (self.contains(*member) && words.iter().any(|word| has_word(&said, word))).then_some(*member)
        };
        Self::NAMES.iter().filter_map(named).fold(Self::default(), BitOr::bitor)
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        let names = Self::NAMES.iter();
        names.filter_map(move |(member, words)| self.contains(*member).then_some(words[0]))
    }
}

impl BitOr for AddedParameters {
    type Output = Self;

    fn bitor(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

/// Returns whether a word occurs by itself in a text.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// What one model of one server was found to reject.
#[derive(Debug, Default)]
pub struct RejectedParameters(AtomicU8);

impl RejectedParameters {
    /// Returns what is omitted.
    pub fn left_out(&self) -> AddedParameters {
        AddedParameters(self.0.load(Ordering::Relaxed))
    }

    /// Records that a request was accepted without `members`.
    pub fn learn(&self, members: AddedParameters, deployment: &str) {
        let known = AddedParameters(self.0.fetch_or(members.0, Ordering::Relaxed));
        for member in members.names().filter(|_| !known.contains(members)) {
            tracing::info!(
                deployment,
                member,
                "the provider rejects an optional request parameter; omitting it for this model from now on"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use copilotd_actors::ports::ModelError;

    use super::*;

    /// A refusal whose text could not be parsed.
    fn refusal(class: FailureClass, status: u16, said: &str) -> SendError {
        let error = ModelError {
            class,
            message: String::new(),
            retry_after: None,
            refusal: None,
        };
        SendError {
            error,
            status: Some(status),
            said: said.to_owned(),
        }
    }

    #[test]
    fn a_member_is_refused_where_it_is_named_in_any_words() {
        let all = AddedParameters::STREAM_OPTIONS | AddedParameters::USER | AddedParameters::PARALLEL_TOOL_CALLS;
        let none = AddedParameters::default();
        let refused = FailureClass::Rejected;
        for (said, added, expected) in [
            (
                r#"{"detail":[{"loc":["body","user"],"msg":"Extra inputs are not permitted"}]}"#,
                all,
                AddedParameters::USER,
            ),
            (
                r#"[{"error":{"message":"Unknown name \"stream_options\""}}]"#,
                all,
                AddedParameters::STREAM_OPTIONS,
            ),
            (
                r#"{"message":"Das Feld stream_options kennen wir nicht."}"#,
                all,
                AddedParameters::STREAM_OPTIONS,
            ),
            ("include_usage is not supported", all, AddedParameters::STREAM_OPTIONS),
            (
                "Unrecognized: user, stream_options",
                all,
                AddedParameters::USER | AddedParameters::STREAM_OPTIONS,
            ),
            ("STREAM_OPTIONS: no", all, AddedParameters::STREAM_OPTIONS),
            ("parallel_tool_calls: no", all, AddedParameters::PARALLEL_TOOL_CALLS),
            ("user_id is wrong, and so is superuser", all, none),
            ("temperature", all, none),
            ("stream_options", AddedParameters::USER, none),
            ("", all, none),
        ] {
            assert_eq!(added.refused(&refusal(refused, 422, said)), expected, "{said}");
        }
        assert_eq!(all.refused(&refusal(refused, 404, "user")), none);
        assert_eq!(all.refused(&refusal(FailureClass::ContextLength, 400, "user")), none);
        let learned = RejectedParameters::default();
        learned.learn(AddedParameters::USER, "main");
        assert!(
            learned.left_out().contains(AddedParameters::USER)
                && !learned.left_out().contains(AddedParameters::STREAM_OPTIONS)
        );
    }
}
