//! Revocations of user tokens: all tokens of a user that were issued up to a moment, or one token by its id.
//!
//! A tenant's own backend signs its users' tokens, so a leaked token stays valid until it expires unless it is refused
//! here. API keys are revoked in `tenants`; revoking a user's tokens does not affect a key that acts for the user.
//!
//! Invariants: a revocation is in the audit log before it takes effect, and stored before it is answered; it needs
//! nothing from tenants or the configuration, so neither a faulty tenant nor a broken file prevents it; no revocation
//! of one tenant affects another's tokens; a revocation is stored until every token it affects has expired, so their
//! number is bounded; a stored revocation that cannot be read refuses whatever it can mean, never nothing.

mod list;
mod service;

pub use copilotd_actors::domain::access::revocation::{InvalidRevocationId, Revocation, RevocationId, Subject};
pub use copilotd_actors::domain::access::token_identity::{InvalidDigest, JtiDigest, TokenIdentity};
pub use copilotd_actors::ports::RevocationStore;
pub use list::RevocationList;
pub use service::{MAX_PER_TENANT, Revocations, RevokeError};
