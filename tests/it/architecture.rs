//! Asserts the allowed directions of imports.

use std::path::Path;
use std::process::Command;

/// Crates that the application core must not depend on.
const OUTSIDE: [&str; 6] = ["axum", "mongodb", "async-openai", "rusqlite", "reqwest", "hyper"];

#[test]
fn the_core_knows_no_web_framework_driver_or_provider_client() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            "copilotd-actors",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs, since it runs this test");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8_lossy(&tree.stdout);
    assert!(tree.contains("ractor v"), "this is not the tree: {tree}");
    for line in tree.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        assert!(!OUTSIDE.contains(&name), "copilotd-actors depends on {line}");
    }
}

#[test]
fn http_names_no_adapter() {
    for (file, text) in sources("src/http") {
        assert!(!text.contains("adapters"), "{file} names the adapters");
    }
}

#[test]
fn the_domain_awaits_nothing_and_reads_no_clock() {
    for (file, text) in sources("actors/src/domain") {
        for banned in [
            "async fn",
            ".await",
            "tokio::",
            "Timestamp::now",
            "SystemTime",
            "std::fs",
            "std::env",
        ] {
            assert!(!text.contains(banned), "{file} has {banned}");
        }
    }
}

/// Assigning to `value["name"]` can panic on data from a vendor; `tools::member` reads and sets safely.
#[test]
fn the_vendors_rooms_index_no_json() {
    for folder in ["src/adapters/zendesk", "src/adapters/slack", "src/adapters/tools"] {
        for (file, text) in sources(folder) {
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for (at, _) in code.match_indices("[\"") {
                let before = code[..at].chars().next_back().unwrap_or(' ');
                let is_index = before.is_alphanumeric() || matches!(before, '_' | ')' | ']');
                assert!(!is_index, "{file} indexes: {}", &code[at.saturating_sub(40)..at + 2]);
            }
        }
    }
}

/// Returns every Rust file below a folder, without comment lines.
fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, into: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).expect("the folder is in the checkout") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
                let code: Vec<&str> = text
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"))
                    .collect();
                into.push((path.display().to_string(), code.join("\n")));
            }
        }
    }
    let mut files = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut files);
    assert!(files.len() > 5, "{folder} has sources");
    files
}
