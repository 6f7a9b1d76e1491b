//! Checks answers against a caller's schema.
//!
//! A check can take time and memory that are exponential in a schema within its [budget](super::budget). Callers must
//! be able to kill it from outside: in production it runs in its own process, with limits.

use serde_json::Value;

use super::budget::{Cost, measure};
use super::{Violation, clip, describe};
use crate::domain::json::{MAX_NESTING, is_value_too_deep};

/// Maximum size of the compiled regular expressions of a whole schema, in bytes.
const REGEX_BYTES: usize = 1024 * 1024;
/// Maximum memory that one regular expression may use while matching, in bytes.
const MATCHER_BYTES: usize = 256 * 1024;

/// Maximum length of an answer for which all violations are listed; for a longer one, only the first.
const MAX_LISTED: usize = 16 * 1024;
/// The message for an unusable regular expression; the engine does not distinguish the two causes.
const UNSUPPORTED_PATTERN: &str = "is not a supported regular expression (no look-around, no back-references) or is \
                                   too large: all expressions of a schema may compile to at most 1 MiB together";

/// A caller's schema, compiled.
pub struct Checker(jsonschema::Validator);

impl Checker {
    /// Compiles a schema, within its budget.
    pub fn compile(source: &Value) -> Result<Self, Violation> {
        let Cost { patterns, .. } = measure(source)?;
        let share = REGEX_BYTES / usize::try_from(patterns.max(1)).unwrap_or(REGEX_BYTES);
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .offline()
            // Linear in the text, other than patterns that backtrack.
            .with_pattern_options(
                jsonschema::PatternOptions::regex()
                    .size_limit(share)
                    .dfa_size_limit(MATCHER_BYTES),
            )
            .build(source)
            .map_err(|error| {
                let pointer = error.instance_path().to_string();
                let of_pattern = pointer.ends_with("/pattern") || pointer.contains("/patternProperties");
                let message = if of_pattern {
                    UNSUPPORTED_PATTERN.to_owned()
                } else {
                    clip(&error.to_string())
                };
                Violation { pointer, message }
            })?;
        Ok(Self(validator))
    }

    /// Checks an answer; the error says in one line what is wrong, for a model to act on.
    pub fn check(&self, answer: &str) -> Result<(), String> {
        let value: Value = serde_json::from_str(answer.trim()).map_err(|error| format!("not JSON: {error}"))?;
        if is_value_too_deep(&value) {
            return Err(format!("nested deeper than {MAX_NESTING} levels"));
        }
        // Collecting all errors can cost far more than finding out whether there is one.
        if self.0.is_valid(&value) {
            return Ok(());
        }
        let found = if answer.len() <= MAX_LISTED {
            super::violations(&self.0, &value)
        } else {
            let first = self.0.validate(&value).err();
            first.map(super::violation).into_iter().collect()
        };
        Err(describe(&found))
    }
}
