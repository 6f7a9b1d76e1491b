//! JSON texts and values from outside.

mod canonical;

pub use canonical::{canonical, sorted};
