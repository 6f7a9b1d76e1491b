//! Jobs: work that outlives the request that started it, such as deleting a tenant or exporting its conversations.
//!
//! A job is a record in the store and a task of this process. Invariants: a job is stored before its request is
//! answered 202; after a crash it continues from the record alone, and every step can be repeated; it is visible only
//! to callers of the tenant and scope that started it; the number of open jobs, the size of a result, and how long a
//! finished job and its result are stored are all bounded.

mod deletion;
mod export;
mod line;
mod retention;
mod runner;

pub use copilotd_actors::ports::{Job, JobStatus, Progress, Receipt, Work};
pub use copilotd_actors::ports::{JobStore, Piece, PieceOutcome, TenantData, TenantEraser};
pub use export::MAX_RESULT_BYTES;
pub use retention::RetentionSweeper;
pub use runner::{Dependencies, Jobs, ResultPage, StartError};
