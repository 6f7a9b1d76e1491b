//! Only the owner can read the program's files, whatever the umask was and whatever an older release left.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::live::child::Child;

/// Returns every file and directory below a directory that others have permissions on, with its mode.
fn readable_by_others(directory: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        let about = fs::symlink_metadata(&path).unwrap();
        if about.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let mode = about.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            found.push((path, mode));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_file_of_a_demo_is_its_owners_alone() {
    let around = TempDir::new().unwrap();
    let data = around.path().join("data");
    fs::create_dir(&data).unwrap();
    for left in ["demo.json", "demo.tmp", "acme.jwt.tmp", "copilotd.lock", "slack.tmp"] {
        fs::write(data.join(left), "").unwrap();
        fs::set_permissions(data.join(left), Permissions::from_mode(0o666)).unwrap();
    }
    fs::set_permissions(&data, Permissions::from_mode(0o777)).unwrap();
    let script = r#"umask 000; exec "$0" "$@""#;
    let arguments = [
        "-c",
        script,
        env!("CARGO_BIN_EXE_copilotd"),
        "demo",
        "--port",
        "0",
        "--data-dir",
    ];
    let arguments = [&arguments[..], &[data.to_str().unwrap()]].concat();
    for _ in 0..2 {
        let log = around.path().join("log");
        let mut child = Child::start(Path::new("sh"), &arguments, &[], &log).await;
        let ready = |log: &str| log.contains("copilotd demo is ready").then_some(());
        child
            .wait_for(ready)
            .await
            .unwrap_or_else(|| panic!("{}", child.output()));
        let about: Value = serde_json::from_slice(&fs::read(data.join("demo.json")).unwrap()).unwrap();
        let token = about["tenants"]["acme"]["users"]["ada"].as_str().unwrap();
        let made = reqwest::Client::new()
            .post(format!("{}/v1/conversations", about["base_url"].as_str().unwrap()))
            .bearer_auth(token)
            .json(&json!({}))
            .send();
        assert_eq!(made.await.unwrap().status(), 201);
        let names: Vec<_> = fs::read_dir(&data)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        for name in [
            "copilotd.db",
            "copilotd.db-wal",
            "copilotd.db-shm",
            "tenants.key",
            "demo.json",
        ] {
            assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
        }
        assert_eq!(readable_by_others(&data), []);
        child.kill().await;
        assert_eq!(readable_by_others(&data), []);
        // Files of an older release get private permissions at the next start.
        for name in names {
            fs::set_permissions(data.join(name), Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    }
}
