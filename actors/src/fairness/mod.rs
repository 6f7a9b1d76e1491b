//! Fair shares: of turns, of compute and of a user's open turns.

pub mod fair_queue;
pub mod share;
pub mod user_turns;
