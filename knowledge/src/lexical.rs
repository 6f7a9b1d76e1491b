//! The lexical search: BM25 over stemmed words.
//!
//! Computed by us on every store, from statistics of the tenant alone: what databases offer counts the rows of all tenants
//! (FTS5) or is no BM25 (PostgreSQL's `ts_rank`).
