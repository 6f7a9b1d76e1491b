//! Collections, their indexes, and the timeout of a call.

use std::sync::Arc;
use std::time::Duration;

use copilotd_gateway::ledger::KEPT_DAYS;
use mongodb::bson::{Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Collection, Database, IndexModel};
use tokio::sync::RwLock;

use super::documents::{AppendDocument, HeaderDocument, SnapshotDocument};
use super::failure::Failure;

/// The server deletes a snapshot that was not renewed for this long: an idle conversation is then folded from its log.
const SNAPSHOT_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// The server deletes ledger records after this time.
const USAGE_LIFE: Duration = Duration::from_secs(KEPT_DAYS.unsigned_abs() * 24 * 3600);

/// Handles of the collections; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Collections {
    pub(super) appends: Collection<AppendDocument>,
    pub(super) conversations: Collection<HeaderDocument>,
    pub(super) snapshots: Collection<SnapshotDocument>,
    /// What tenants and users have stored.
    pub(super) stored: Collection<Document>,
    /// Locked shared while a header is written and counted, exclusively while users are recounted.
    pub(super) counting: Arc<RwLock<()>>,
    /// The ledger: what each attempt of a model call used.
    pub(super) usage: Collection<Document>,
    /// Model calls in flight.
    pub(super) open_calls: Collection<Document>,
    /// What was learned about models' answers.
    pub(super) learned: Collection<Document>,
    /// Tenants that were created or changed at run time.
    pub(super) tenants: Collection<Document>,
    /// API keys that were created or revoked at run time, and when each was last used.
    pub(super) api_keys: Collection<Document>,
    pub(super) key_uses: Collection<Document>,
    /// The audit log: a document for each entry, and one per tenant for the head.
    pub(super) audit: Collection<Document>,
    pub(super) audit_heads: Collection<Document>,
    /// Revocations of user tokens.
    pub(super) revocations: Collection<Document>,
    /// Jobs, and the pieces of their results.
    pub(super) jobs: Collection<Document>,
    pub(super) job_pieces: Collection<Document>,
    /// Facts about users, and the turns that were learned from.
    pub(super) facts: Collection<Document>,
    pub(super) fact_lessons: Collection<Document>,
    /// Attached files, and the pieces of their content.
    pub(super) files: Collection<Document>,
    pub(super) file_pieces: Collection<Document>,
    /// Copies of the owner's epoch: each append's transaction changes one of them.
    pub(super) fences: Collection<Document>,
    /// Single documents by name: `lease`, `standby`, `schema`, `projected`.
    pub(super) meta: Collection<Document>,
    /// Longest time for one call to the server.
    pub(super) call_timeout: Duration,
}

impl Collections {
    pub(super) fn new(database: &Database, call_timeout: Duration) -> Self {
        Self {
            appends: database.collection("appends"),
            conversations: database.collection("conversations"),
            snapshots: database.collection("snapshots"),
            stored: database.collection("stored"),
            counting: Arc::default(),
            usage: database.collection("usage"),
            open_calls: database.collection("open_calls"),
            learned: database.collection("learned"),
            tenants: database.collection("tenants"),
            api_keys: database.collection("api_keys"),
            key_uses: database.collection("key_uses"),
            audit: database.collection("audit"),
            audit_heads: database.collection("audit_heads"),
            revocations: database.collection("revocations"),
            jobs: database.collection("jobs"),
            job_pieces: database.collection("job_pieces"),
            facts: database.collection("facts"),
            fact_lessons: database.collection("fact_lessons"),
            files: database.collection("files"),
            file_pieces: database.collection("file_pieces"),
            fences: database.collection("fences"),
            meta: database.collection("meta"),
            call_timeout,
        }
    }

    /// Runs one call with a timeout. A timeout closes the connection; the call's outcome is then unknown.
    pub(super) async fn call<T>(
        &self,
        call: impl IntoFuture<Output = mongodb::error::Result<T>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.call_timeout, call.into_future()).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Failure::TimedOut),
        }
    }

    /// Creates missing indexes, without a timeout: a new index on a full collection can take long.
    pub(super) async fn create_indexes(&self) -> Result<(), Failure> {
        let index = |keys: Document, options: IndexOptions| IndexModel::builder().keys(keys).options(options).build();
        let named = |name: &str| IndexOptions::builder().name(name.to_owned()).build();
        let partial = |name: &str, filter: Document| {
            IndexOptions::builder()
                .name(name.to_owned())
                .partial_filter_expression(filter)
                .build()
        };
        let mut fence = named("number");
        fence.unique = Some(true);
        let mut expiry = named("expiry");
        expiry.expire_after = Some(SNAPSHOT_LIFE);
        let appends = [
            index(doc! { "tenant": 1, "conversation": 1, "first_seq": 1 }, fence),
            index(
                doc! { "tenant": 1, "conversation": 1, "first_seq": 1, "messages": 1 },
                partial("messages", doc! { "messages": { "$gt": 0 } }),
            ),
            index(
                doc! { "tenant": 1, "turns": 1, "first_seq": 1 },
                partial("turns", doc! { "turns": { "$exists": true } }),
            ),
            index(doc! { "stamp": 1 }, named("stamp")),
        ];
        let conversations = [
            index(
                doc! { "tenant": 1, "user": 1, "created_at": -1, "conversation": -1 },
                named("user"),
            ),
            index(doc! { "tenant": 1, "created_at": -1, "conversation": -1 }, named("age")),
            index(
                doc! { "tenant": 1, "conversation": 1 },
                partial("due", doc! { "due": true }),
            ),
        ];
        let mut kept = named("kept");
        kept.expire_after = Some(USAGE_LIFE);
        let usage = [
            index(doc! { "tenant": 1, "at": 1 }, named("tenant")),
            index(doc! { "at": 1 }, kept),
        ];
        let mut number = named("number");
        number.unique = Some(true);
        self.audit
            .create_index(index(doc! { "tenant": 1, "n": 1 }, number))
            .await?;
        self.usage.create_indexes(usage).await?;
        self.jobs
            .create_index(index(doc! { "tenant": 1, "created_at": -1 }, named("tenant")))
            .await?;
        let pieces = [
            index(doc! { "tenant": 1, "job": 1, "n": 1 }, named("job")),
            index(doc! { "tenant": 1, "conversation": 1 }, named("conversation")),
        ];
        self.job_pieces.create_indexes(pieces).await?;
        let of_conversation = || index(doc! { "tenant": 1, "conversation": 1 }, named("conversation"));
        let of_user = doc! { "tenant": 1, "user": 1, "said_at": -1 };
        self.facts
            .create_indexes([index(of_user, named("user")), of_conversation()])
            .await?;
        let open = partial("open", doc! { "closed": false });
        let lessons = [
            index(doc! { "tenant": 1, "user": 1, "said_at": 1 }, open),
            of_conversation(),
        ];
        self.fact_lessons.create_indexes(lessons).await?;
        let mut own = named("id");
        own.unique = Some(true);
        let files = [
            index(doc! { "tenant": 1, "id": 1 }, own),
            index(
                doc! { "tenant": 1, "state": 1, "created_at": 1, "bytes": 1 },
                named("state"),
            ),
            index(doc! { "tenant": 1, "user": 1, "state": 1, "charge": 1 }, named("user")),
            of_conversation(),
        ];
        self.files.create_indexes(files).await?;
        let pieces = [
            index(doc! { "content": 1 }, named("content")),
            index(doc! { "tenant": 1 }, named("tenant")),
        ];
        self.file_pieces.create_indexes(pieces).await?;
        let of_tenant = index(doc! { "tenant": 1 }, named("tenant"));
        self.stored.create_index(of_tenant).await?;
        self.appends.create_indexes(appends).await?;
        self.conversations.create_indexes(conversations).await?;
        self.snapshots.create_index(index(doc! { "at": 1 }, expiry)).await?;
        Ok(())
    }
}
