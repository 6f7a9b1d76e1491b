//! Jobs: work that outlives the request that started it, such as deleting a tenant or exporting its conversations.
//!
//! A job is a record in the store and a task of this process. Invariants: a job is stored before its request is answered 202; it
//! goes on after a crash, from the record alone, and every step of it can be done twice; it is shown to callers of the tenant and
//! the scope that started it, and to nobody else; there is a bound to how many are open, how large a result is, and how long
//! a finished job and its result are kept.

mod deletion;
mod export;
mod line;
mod record;
mod retention;
mod runner;
mod store;

pub use export::MAX_RESULT_BYTES;
pub use record::{Job, JobStatus, Progress, Receipt, Work};
pub use retention::Retention;
pub use runner::{Jobs, Parts, ResultPage, StartError};
pub use store::{JobStore, Piece, PieceOutcome, TenantData, TenantEraser};
