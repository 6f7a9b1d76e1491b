//! Starts that have to be refused, each with a message that says what to do.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::store::mongo::TestDatabase;
use crate::support::live::server::{Server, Settings, Store};
use crate::support::live::world::World;

async fn world() -> (World, TempDir) {
    let scratch = TempDir::new().unwrap();
    (World::start(scratch.path()).await, scratch)
}

/// Starts a server that must not serve; returns its output.
async fn refusal(server: &mut Server) -> String {
    let status = server.try_start(&[]).await.expect_err("it serves");
    assert_eq!(status, 1, "{}", server.log());
    server.log()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_directory() {
    let (world, _scratch) = world().await;
    let mut server = Server::new(&world, Store::Sqlite);
    server.start(&[]).await;
    let (status, said) = server.second().await;
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("is in use by another copilotd (process "), "{said}");
    // A killed process leaves no lock behind.
    server.kill().await;
    server.start(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_database() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let (world, _scratch) = world().await;
    let store = Store::Mongo {
        url: database.url.clone(),
        database: database.name.clone(),
        lease_s: 6,
    };
    let mut server = Server::new(&world, store);
    server.start(&[]).await;
    let (status, said) = server.second().await;
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("the database is in use by another copilotd"), "{said}");
    // The first one keeps serving.
    server.kill().await;
    server.start(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_newer_release() {
    let (world, _scratch) = world().await;
    let mut server = Server::new(&world, Store::Sqlite);
    server.start(&[]).await;
    server.kill().await;
    let file = std::fs::read_dir(&server.data).unwrap();
    let file = file
        .map(|entry| entry.unwrap().path())
        .find(|path| is_database(path))
        .unwrap();
    let connection = rusqlite::Connection::open(file).unwrap();
    connection.pragma_update(None, "user_version", 999).unwrap();
    drop(connection);
    let said = refusal(&mut server).await;
    assert!(
        said.contains("has schema version 999") && said.contains("use a newer release"),
        "{said}"
    );
}

fn is_database(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3\0"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_written() {
    let (world, scratch) = world().await;
    let locked = scratch.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, PermissionsExt::from_mode(0o555)).unwrap();
    // Permissions do not stop root; the kernel's own file systems do.
    let is_root = std::fs::write(locked.join("probe"), "").is_ok();
    let data = if is_root {
        PathBuf::from("/sys/copilotd")
    } else {
        locked.join("data")
    };
    let settings = Settings {
        data: Some(data.clone()),
        ..Store::Sqlite.into()
    };
    let said = refusal(&mut Server::new(&world, settings)).await;
    assert!(
        said.contains(&format!("cannot read or write {}", data.display())),
        "{said}"
    );
}
