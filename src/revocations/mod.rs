//! Revoked user tokens: all tokens of a user that were issued up to a moment, or one token by its id.
//!
//! A tenant's own backend signs its users' tokens, so that a token that leaked stays good until its end unless it is refused here.
//! API keys are revoked elsewhere (`tenants`), and a key that acts for a user is not touched by revoking that user's tokens.
//!
//! Invariants: a revocation is in the audit log before it takes effect and stored before it is answered; nothing about tenants or the
//! configuration is needed for it, so that neither a faulty tenant nor a broken file stands in its way; no revocation of one tenant
//! reaches another's tokens; one is kept until every token that it can hit has ended, so that their number is bounded.

mod list;
mod mark;
mod record;
mod service;
mod store;

pub use list::RevocationList;
pub use mark::{InvalidDigest, JtiDigest, TokenMark};
pub use record::{InvalidRevocationId, Revocation, RevocationId, Subject};
pub use service::{MAX_PER_TENANT, Revocations, RevokeError};
pub use store::RevocationStore;
