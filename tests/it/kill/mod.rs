//! The real binary, killed at any moment.

mod rounds;
