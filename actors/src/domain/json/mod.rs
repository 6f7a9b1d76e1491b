//! JSON texts and values from outside: canonical forms, and how deep they may nest.

mod canonical;
mod nesting;
mod string_scan;

pub use canonical::{canonical, sorted};
pub use nesting::{MAX_NESTING, is_text_too_deep, is_value_too_deep};
pub use string_scan::StringScan;
