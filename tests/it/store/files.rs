//! The contract of the store of attached files, on every store.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd_actors::domain::file::{Exceeded, FileInfo, FileQuota, MediaType, charge};
use copilotd_actors::domain::ids::FileId;
use copilotd_actors::fakes::files::MemoryFiles;
use copilotd_actors::fakes::log::MemoryLog;
use copilotd_actors::ports::{
    EventLog, FileStore, FileUpload, Finished, LogError, PIECE_BYTES, StoredFile, TenantData, TenantEraser, UploadStep,
    content,
};
use futures::TryStreamExt as _;
use jiff::{SignedDuration, Timestamp};
use mongodb::bson::{Document, doc};
use tempfile::TempDir;
use uuid::Uuid;

use super::mongo::TestDatabase;
use crate::support::talk::{Talk, erased, scope};

const QUOTA: FileQuota = FileQuota {
    tenant: 4 * 1024 * 1024,
    user: 4 * 1024 * 1024,
};

/// A store, and the log beside which it stands.
struct Stores {
    log: Arc<dyn EventLog>,
    files: Arc<dyn FileStore>,
    /// Set for the store that does not see the log.
    memory: Option<MemoryFiles>,
}

impl Stores {
    async fn erase(&self, talk: &mut Talk) -> u64 {
        let tombstone = talk.write(self.log.as_ref(), vec![erased()]).await.last_seq();
        let receipt = self.log.erase(&talk.scope, talk.id, tombstone).await.unwrap();
        if let Some(memory) = &self.memory {
            return memory.erase(talk.scope.tenant(), talk.id);
        }
        let of_files = receipt.stores.iter().find(|(name, _)| name.ends_with(".files"));
        of_files.expect("the receipt names the files").1
    }

    async fn talk(&self, tenant: &str, user: &str) -> Talk {
        let mut talk = Talk::new(tenant, user);
        talk.open(self.log.as_ref()).await;
        talk
    }

    /// Uploads a file without finishing it.
    async fn begin(&self, talk: &Talk, pieces: &[&[u8]], second: i64) -> FileUpload {
        let upload = upload(talk, second);
        let begun = self.files.begin_file(&talk.scope, &upload).await.unwrap();
        assert_eq!(begun, UploadStep::Stored);
        for (number, piece) in (0..).zip(pieces) {
            let piece = Bytes::copy_from_slice(piece);
            let put = self.files.put_file_piece(&talk.scope, &upload, number, piece).await;
            assert_eq!(put.unwrap(), UploadStep::Stored);
        }
        upload
    }

    async fn put(&self, talk: &Talk, pieces: &[&[u8]], second: i64) -> StoredFile {
        let upload = self.begin(talk, pieces, second).await;
        let file = file(talk, &upload, pieces.iter().map(|piece| piece.len()).sum());
        let finished = self.files.finish_file(&talk.scope, &upload, &file, QUOTA).await;
        assert_eq!(finished.unwrap(), Finished::Stored);
        file
    }

    async fn read(&self, talk: &Talk, id: FileId) -> Vec<u8> {
        let pieces: Vec<Bytes> = content(self.files.as_ref(), &talk.scope, id)
            .try_collect()
            .await
            .unwrap();
        pieces.concat()
    }

    async fn is_there(&self, talk: &Talk, file: &StoredFile) -> bool {
        let found = self.files.file(&talk.scope, file.id).await.unwrap();
        assert!(found.as_ref().is_none_or(|found| found == file), "{found:?}");
        found.is_some()
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_millisecond(1_790_000_000_000 + second * 1_000).unwrap()
}

fn upload(talk: &Talk, second: i64) -> FileUpload {
    FileUpload {
        id: FileId::new(Uuid::now_v7()),
        conversation: talk.id,
        user: talk.user.clone(),
        begun_at: at(second),
    }
}

fn file(talk: &Talk, upload: &FileUpload, bytes: usize) -> StoredFile {
    StoredFile {
        id: FileId::new(Uuid::now_v7()),
        conversation: talk.id,
        user: talk.user.clone(),
        info: FileInfo {
            name: "r\u{e9}sum\u{e9}.pdf".to_owned(),
            media_type: MediaType::Pdf,
            bytes: bytes as u64,
            sha256: "ab".repeat(32),
        },
        created_at: upload.begun_at,
    }
}

async fn a_file_is_whole_or_absent(stores: &Stores) {
    let talk = stores.talk("acme", "ann").await;
    let (first, last) = (vec![7; PIECE_BYTES], vec![8; 3]);
    let pieces: [&[u8]; 2] = [&first, &last];
    let upload = stores.begin(&talk, &pieces, 1).await;
    let file = file(&talk, &upload, PIECE_BYTES + 3);
    let store = stores.files.as_ref();
    for id in [upload.id, file.id] {
        assert_eq!(store.file(&talk.scope, id).await.unwrap(), None);
        assert_eq!(store.file_piece(&talk.scope, id, 0).await.unwrap(), None);
        let referenced = store.reference_files(&talk.scope, talk.id, &talk.user, &[id]).await;
        assert_eq!(referenced.unwrap(), Err(id));
        assert!(!store.delete_file(&talk.scope, id).await.unwrap());
    }
    let finished = store.finish_file(&talk.scope, &upload, &file, QUOTA).await.unwrap();
    assert_eq!(finished, Finished::Stored);
    assert_eq!(stores.read(&talk, file.id).await, pieces.concat());
    assert!(stores.is_there(&talk, &file).await);

    // A second upload under the same id is refused and can be deleted.
    let copy = stores.begin(&talk, &[b"other"], 2).await;
    let exists = store.finish_file(&talk.scope, &copy, &file, QUOTA).await.unwrap();
    assert_eq!(exists, Finished::Exists(Box::new(file.clone())));
    for _ in 0..2 {
        store.abort_file(&talk.scope, copy.id).await.unwrap();
    }
    let late = store
        .put_file_piece(&talk.scope, &copy, 1, Bytes::from_static(b"late"))
        .await;
    assert_eq!(late.unwrap(), UploadStep::Erased);
    let late = self::file(&talk, &copy, 4);
    let finished = store.finish_file(&talk.scope, &copy, &late, QUOTA).await.unwrap();
    assert_eq!(finished, Finished::Erased);
    assert_eq!(stores.read(&talk, file.id).await, pieces.concat());

    for expected in [true, false] {
        assert_eq!(store.delete_file(&talk.scope, file.id).await.unwrap(), expected);
    }
    assert!(!stores.is_there(&talk, &file).await);
    assert!(stores.read(&talk, file.id).await.is_empty());
}

async fn tenants_users_and_conversations_are_apart(stores: &Stores) {
    let ann = stores.talk("acme", "ann").await;
    let file = stores.put(&ann, &[b"of ann"], 1).await;
    let others = [
        stores.talk("globex", "ann").await,
        stores.talk("acme", "ann").await,
        stores.talk("acme", "bob").await,
    ];
    let store = stores.files.as_ref();
    for other in &others {
        let found = store
            .reference_files(&other.scope, other.id, &other.user, &[file.id])
            .await;
        assert_eq!(found.unwrap(), Err(file.id));
    }
    let globex = &others[0];
    assert!(!stores.is_there(globex, &file).await);
    assert_eq!(store.file_piece(&globex.scope, file.id, 0).await.unwrap(), None);
    assert!(!store.delete_file(&globex.scope, file.id).await.unwrap());
    assert_eq!(store.sweep_files(&globex.scope, at(1_000), 10).await.unwrap(), 0);
    // The same id in another tenant is another file.
    let upload = stores.begin(globex, &[b"of globex"], 1).await;
    let same = StoredFile {
        id: file.id,
        ..self::file(globex, &upload, 9)
    };
    let finished = store.finish_file(&globex.scope, &upload, &same, QUOTA).await.unwrap();
    assert_eq!(finished, Finished::Stored);
    assert_eq!(stores.read(globex, file.id).await, b"of globex");
    assert_eq!(stores.read(&ann, file.id).await, b"of ann");
}

async fn what_no_prompt_refers_to_is_swept(stores: &Stores) {
    let talk = stores.talk("initech", "cy").await;
    let store = stores.files.as_ref();
    let used = stores.put(&talk, &[b"used"], 1).await;
    let unused = stores.put(&talk, &[b"unused"], 2).await;
    let young = stores.put(&talk, &[b"young"], 100).await;
    let unfinished = stores.begin(&talk, &[b"unfinished"], 3).await;
    let ids = [used.id, used.id];
    let found = store
        .reference_files(&talk.scope, talk.id, &talk.user, &ids)
        .await
        .unwrap();
    assert_eq!(found, Ok(vec![used.clone(), used.clone()]));
    assert_eq!(store.sweep_files(&talk.scope, at(2), 10).await.unwrap(), 0);
    assert_eq!(store.sweep_files(&talk.scope, at(50), 1).await.unwrap(), 1);
    assert_eq!(store.sweep_files(&talk.scope, at(50), 10).await.unwrap(), 1);
    assert_eq!(store.sweep_files(&talk.scope, at(50), 10).await.unwrap(), 0);
    for (file, expected) in [(&used, true), (&unused, false), (&young, true)] {
        assert_eq!(stores.is_there(&talk, file).await, expected);
    }
    let file = file(&talk, &unfinished, 10);
    let finished = store.finish_file(&talk.scope, &unfinished, &file, QUOTA).await.unwrap();
    assert_eq!(finished, Finished::Erased);
}

async fn a_refused_prompt_releases_its_files(stores: &Stores) {
    let talk = stores.talk("initech", "dot").await;
    let store = stores.files.as_ref();
    let file = stores.put(&talk, &[b"asked"], 1).await;
    for _ in 0..2 {
        let found = store
            .reference_files(&talk.scope, talk.id, &talk.user, &[file.id])
            .await;
        assert!(found.unwrap().is_ok());
    }
    // Another prompt still refers to it.
    store.release_files(&talk.scope, &[file.id]).await.unwrap();
    store.sweep_files(&talk.scope, at(50), 10).await.unwrap();
    assert!(stores.is_there(&talk, &file).await);
    for _ in 0..3 {
        store.release_files(&talk.scope, &[file.id]).await.unwrap();
    }
    assert!(stores.is_there(&talk, &file).await);
    assert_eq!(store.sweep_files(&talk.scope, at(50), 10).await.unwrap(), 1);
    assert!(!stores.is_there(&talk, &file).await);
}

/// Two deletions of one upload and another tenant's upload at once: the database may give the second the number of the first.
async fn deletions_harm_no_other_upload(stores: &Stores) {
    let (mine, theirs) = (stores.talk("hooli", "ann").await, stores.talk("globex", "ann").await);
    let pieces: [&[u8]; 9] = [b"mine"; 9];
    for round in 0..20 {
        let open = stores.begin(&mine, &pieces, 1).await;
        let store = stores.files.as_ref();
        let (aborted, swept, kept) = tokio::join!(
            store.abort_file(&mine.scope, open.id),
            store.sweep_files(&mine.scope, at(50), 10),
            stores.put(&theirs, &[b"theirs, ", b"whole"], 100),
        );
        aborted.unwrap();
        swept.unwrap();
        assert_eq!(stores.read(&theirs, kept.id).await, b"theirs, whole", "round {round}");
    }
}

async fn the_quota_counts_what_is_there(stores: &Stores) {
    let talk = stores.talk("hooli", "dee").await;
    let store = stores.files.as_ref();
    let kept = stores.put(&talk, &[b"12345"], 1).await;
    let upload = stores.begin(&talk, &[b"123456"], 2).await;
    let more = file(&talk, &upload, 6);
    // A small file counts for more than its bytes.
    let finish = async |tenant, user| {
        let quota = FileQuota { tenant, user };
        store.finish_file(&talk.scope, &upload, &more, quota).await.unwrap()
    };
    assert_eq!(
        finish(2 * charge(1) - 1, u64::MAX).await,
        Finished::Full(Exceeded::Tenant)
    );
    assert_eq!(
        finish(u64::MAX, 2 * charge(1) - 1).await,
        Finished::Full(Exceeded::User)
    );
    assert!(store.delete_file(&talk.scope, kept.id).await.unwrap());
    let other = stores.talk("hooli", "gil").await;
    let theirs = stores.put(&other, &[b"12345"], 1).await;
    assert_eq!(finish(charge(1), charge(1)).await, Finished::Full(Exceeded::Tenant));
    assert_eq!(store.sweep_files(&talk.scope, at(2), 10).await.unwrap(), 1);
    assert!(!stores.is_there(&other, &theirs).await);
    assert_eq!(finish(charge(1), charge(1)).await, Finished::Stored);
}

async fn an_erasure_takes_files_and_uploads(stores: &Stores) {
    let mut talk = stores.talk("acme", "eve").await;
    let kept = stores.talk("acme", "eve").await;
    let other = stores.put(&kept, &[b"kept"], 1).await;
    let big = vec![1; PIECE_BYTES];
    let pieces: Vec<&[u8]> = vec![&big; 6];
    let gone = stores.put(&talk, &pieces, 1).await;
    let open = stores.begin(&talk, &[b"open"], 2).await;
    assert_eq!(stores.erase(&mut talk).await, 2);
    assert!(!stores.is_there(&talk, &gone).await);
    let store = stores.files.as_ref();
    let late = store
        .put_file_piece(&talk.scope, &open, 1, Bytes::from_static(b"late"))
        .await;
    assert_eq!(late.unwrap(), UploadStep::Erased);
    let late = file(&talk, &open, 4);
    let finished = store.finish_file(&talk.scope, &open, &late, QUOTA).await.unwrap();
    assert_eq!(finished, Finished::Erased);
    let late = store.begin_file(&talk.scope, &upload(&talk, 3)).await.unwrap();
    assert_eq!(late, UploadStep::Erased);
    assert_eq!(stores.read(&kept, other.id).await, b"kept");
}

async fn contract(stores: &Stores) {
    a_file_is_whole_or_absent(stores).await;
    tenants_users_and_conversations_are_apart(stores).await;
    what_no_prompt_refers_to_is_swept(stores).await;
    a_refused_prompt_releases_its_files(stores).await;
    deletions_harm_no_other_upload(stores).await;
    the_quota_counts_what_is_there(stores).await;
    an_erasure_takes_files_and_uploads(stores).await;
}

/// What a deleted tenant leaves, and what is refused while it is deleted.
async fn deletion(stores: &Stores, eraser: &dyn TenantEraser) {
    let talk = stores.talk("umbrella", "gus").await;
    let other = stores.talk("wayne", "gus").await;
    let big = vec![1; PIECE_BYTES];
    let gone = stores.put(&talk, &[&big, &big, &big, &big, &big, b"6"], 1).await;
    let open = stores.begin(&talk, &[b"open"], 1).await;
    let kept = stores.put(&other, &[b"kept"], 1).await;
    let umbrella = talk.scope.tenant();
    eraser.close_tenant(umbrella).await.unwrap();
    let late = stores
        .files
        .put_file_piece(&talk.scope, &open, 1, Bytes::from_static(b"late"))
        .await;
    assert!(matches!(late, Err(LogError::Refused(_))), "{late:?}");
    // Pieces, and a row for each file.
    for expected in [7 + 2, 0] {
        assert_eq!(
            eraser.erase_tenant(umbrella, TenantData::Files).await.unwrap(),
            expected
        );
    }
    eraser.reopen_tenant(umbrella);
    assert!(!stores.is_there(&talk, &gone).await);
    assert_eq!(stores.read(&other, kept.id).await, b"kept");
}

#[tokio::test]
async fn in_memory() {
    // It does not see the log, so an unknown conversation is not refused.
    let files = MemoryFiles::default();
    contract(&Stores {
        log: Arc::new(MemoryLog::new()),
        files: Arc::new(files.clone()),
        memory: Some(files),
    })
    .await;
}

#[tokio::test]
async fn on_sqlite() {
    let directory = TempDir::new().unwrap();
    let store = Arc::new(SqliteLog::open(directory.path()).unwrap());
    let stores = Stores {
        log: Arc::clone(&store) as _,
        files: Arc::clone(&store) as _,
        memory: None,
    };
    contract(&stores).await;
    deletion(&stores, store.as_ref()).await;
    a_conversation_has_to_be_known(&stores).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mongodb() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let store = Arc::new(database.connect().await.unwrap());
    let stores = Stores {
        log: Arc::clone(&store) as _,
        files: Arc::clone(&store) as _,
        memory: None,
    };
    contract(&stores).await;
    deletion(&stores, store.as_ref()).await;
    a_conversation_has_to_be_known(&stores).await;
    a_piece_that_comes_late_is_swept(&stores, &database).await;
}

/// A write whose answer was lost may be executed after its upload was deleted.
async fn a_piece_that_comes_late_is_swept(stores: &Stores, database: &TestDatabase) {
    let talk = stores.talk("hooli", "eve").await;
    let aborted = stores.begin(&talk, &[b"first"], 1).await;
    stores.files.abort_file(&talk.scope, aborted.id).await.unwrap();
    let mut erased = stores.talk("hooli", "eve").await;
    let open = stores.begin(&erased, &[b"first"], 1).await;
    stores.erase(&mut erased).await;
    let client = mongodb::Client::with_uri_str(&database.url).await.unwrap();
    let pieces = client.database(&database.name).collection::<Document>("file_pieces");
    let of_tenant = doc! { "tenant": "hooli" };
    let before = pieces.count_documents(of_tenant.clone()).await.unwrap();
    for upload in [aborted.id, open.id] {
        let content = format!("hooli/{upload}");
        let late = doc! { "_id": format!("{content}/1"), "tenant": "hooli", "content": content, "n": 1_i64 };
        pieces.insert_one(late).await.unwrap();
    }
    let tomorrow = Timestamp::now() + SignedDuration::from_hours(25);
    stores.files.sweep_files(&talk.scope, tomorrow, 100).await.unwrap();
    let left = pieces.count_documents(of_tenant).await.unwrap();
    assert!(left <= before, "{left} of {before}");
    let files = client.database(&database.name).collection::<Document>("files");
    let deleted = files
        .count_documents(doc! { "tenant": "hooli", "state": { "$lt": 1 } })
        .await
        .unwrap();
    assert_eq!(deleted, 0);
}

async fn a_conversation_has_to_be_known(stores: &Stores) {
    let unknown = Talk::new("acme", "ann");
    let begun = stores.files.begin_file(&scope("acme"), &upload(&unknown, 1)).await;
    assert_eq!(begun.unwrap(), UploadStep::Erased);
}

/// Returns whether a text is in any file of a directory.
fn is_in_files(directory: &Path, text: &[u8]) -> bool {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut stored = entries.filter(|path| !path.ends_with("copilotd.reserve"));
    stored.any(|path| memchr::memmem::find(&std::fs::read(path).unwrap_or_default(), text).is_some())
}

#[tokio::test]
async fn deleted_swept_and_erased_bytes_are_gone_from_the_files_of_sqlite() {
    const SECRETS: [&[u8]; 3] = [b"secret-deleted-", b"secret-swept-", b"secret-erased-"];
    let directory = TempDir::new().unwrap();
    let store = Arc::new(SqliteLog::open(directory.path()).unwrap());
    let stores = Stores {
        log: Arc::clone(&store) as _,
        files: Arc::clone(&store) as _,
        memory: None,
    };
    let mut talk = stores.talk("acme", "ann").await;
    let texts = SECRETS.map(|secret| secret.repeat(10_000));
    let mut files = Vec::new();
    for text in &texts {
        files.push(stores.put(&talk, &[text], 1).await);
    }
    let ids = [files[2].id];
    let referenced = store.reference_files(&talk.scope, talk.id, &talk.user, &ids).await;
    assert!(referenced.unwrap().is_ok());
    assert!(SECRETS.iter().all(|secret| is_in_files(directory.path(), secret)));

    assert!(store.delete_file(&talk.scope, files[0].id).await.unwrap());
    assert!(!is_in_files(directory.path(), SECRETS[0]));
    assert_eq!(store.sweep_files(&talk.scope, at(10), 10).await.unwrap(), 1);
    assert!(!is_in_files(directory.path(), SECRETS[1]));
    assert!(is_in_files(directory.path(), SECRETS[2]));
    assert_eq!(stores.erase(&mut talk).await, 1);
    assert!(!is_in_files(directory.path(), SECRETS[2]));
}
