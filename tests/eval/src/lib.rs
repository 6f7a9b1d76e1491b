//! The evaluation of retrieval and long memory: reads public sets, runs the product's own code on them, and prints one table
//! of aims, floors and measured values with their 95 % intervals.
//!
//! Part of each set is held back and run by others afterwards. So constants are fixed in the code that is measured, not here,
//! and come from the literature or from what is cheap: nothing is fitted to single questions.

pub mod assembled;
pub mod banking;
pub mod corpus;
pub mod facts;
pub mod locomo;
pub mod memory_growth;
pub mod metrics;
pub mod rows;
pub mod scifact;
pub mod table;
pub mod vectors;
