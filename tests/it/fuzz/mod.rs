//! Fuzz tests of every parser of outside input.
//!
//! In a plain test run each target tries a few hundred inputs. `scripts/test fuzz` runs each for five seconds,
//! `scripts/fuzz` for as long as you like. A failure prints `BOLERO_RANDOM_SEED=…`; with that variable set, the same
//! input is tried first. A target asserts what holds for every input (bounds, agreement with a second parser, no forged
//! value accepted), and implicitly that nothing panics.

mod cursor;
mod json_body;
mod jwt;
mod markdown;
mod position;
mod provider_stream;
mod schema;
mod text;
mod tool_results;

use std::ops::DerefMut as _;
use std::panic::AssertUnwindSafe;

/// Feeds `check` with random inputs of at most `max_len` bytes.
fn fuzz(max_len: usize, check: impl FnMut(&[u8])) {
    // State after a failing check is only used to repeat the same check.
    let mut check = AssertUnwindSafe(check);
    bolero::check!()
        .with_max_len(max_len)
        .for_each(move |input: &[u8]| check.deref_mut()(input));
}
