//! Asserts who may import whom, that modules import each other in one direction, and that the pages name paths that exist.

mod imports;
mod pages;
mod table;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use imports::Import;

/// Crates that the inner crates must not depend on: frameworks, drivers and clients.
const OUTSIDE: [&str; 8] = [
    "axum",
    "mongodb",
    "redis",
    "rusqlite",
    "tokio-postgres",
    "reqwest",
    "hyper",
    "candle-core",
];
/// The crates and their sources.
const CRATES: [(&str, &str); 4] = [
    ("copilotd_actors", "actors/src"),
    ("copilotd_gateway", "gateway/src"),
    ("copilotd_knowledge", "knowledge/src"),
    ("copilotd", "src"),
];

#[test]
fn the_inner_crates_know_no_web_framework_driver_or_provider_client() {
    for (package, known) in [
        ("copilotd-actors", "ractor v"),
        ("copilotd-gateway", "copilotd-actors v"),
        ("copilotd-knowledge", "copilotd-actors v"),
    ] {
        let tree = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--package",
                package,
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
        assert!(tree.contains(known), "this is not the tree: {tree}");
        for line in tree.lines() {
            let name = line.split(' ').next().unwrap_or_default();
            assert!(!OUTSIDE.contains(&name), "{package} depends on {line}");
        }
    }
}

/// The table is exact: an import that it does not allow fails, and so does an allowance that nobody uses.
#[test]
fn modules_import_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    for (package, root) in CRATES {
        let imports = imports::of_crate(root);
        assert!(imports.len() > 100, "{root} has imports");
        let mut used: BTreeSet<(String, String)> = BTreeSet::new();
        for import in &imports {
            let Some(from) = import.from.first() else { continue };
            let Some(to) = target(import) else { continue };
            if *from != to && used.insert((from.clone(), to.clone())) && !table::allows(package, from, &to) {
                wrong.push(format!("{}: {package}::{from} imports {to}", import.file));
            }
        }
        for (from, to) in table::all(package) {
            if !used.contains(&(from.to_owned(), to.to_owned())) {
                wrong.push(format!(
                    "the table lets {package}::{from} import {to}, which it does not"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Names what an import leads to, as the table does; `None` for crates that are not ours and for the crate's own root.
fn target(import: &Import) -> Option<String> {
    let first = import.path.first()?;
    match import.krate.as_str() {
        // A macro is at the root of its crate, wherever it is written.
        "crate" if first == "request_body" => Some("http".to_owned()),
        "crate" => Some(first.clone()),
        "copilotd_actors" => Some(format!("actors/{first}")),
        "copilotd_gateway" => {
            let is_module = first.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            Some(if is_module {
                format!("gateway/{first}")
            } else {
                "gateway/dispatch".to_owned()
            })
        }
        "copilotd_knowledge" => Some(format!("knowledge/{first}")),
        "copilotd_sim" => Some("sim".to_owned()),
        _ => None,
    }
}

#[test]
fn no_modules_import_each_other() {
    for (_, root) in CRATES {
        let imports = imports::of_crate(root);
        assert_eq!(
            imports::cycle(&imports::graph(&imports, 1)),
            None,
            "{root}: between its modules"
        );
    }
    let domain = imports::of_crate("actors/src/domain");
    assert_eq!(
        imports::cycle(&imports::graph(&as_root(domain, "domain"), 1)),
        None,
        "between the parts of the domain"
    );
}

/// Looks at the modules below `module` as if it were a crate.
fn as_root(imports: Vec<Import>, module: &str) -> Vec<Import> {
    let below = imports.into_iter().filter_map(|mut import| {
        if import.krate == "crate" {
            if import.path.first().is_some_and(|first| first == module) {
                import.path.remove(0);
            } else if !import.file.is_empty() && import.path.first().is_some_and(|first| is_outside(first)) {
                return None;
            }
        }
        Some(import)
    });
    below.collect()
}

fn is_outside(module: &str) -> bool {
    [
        "ports", "actors", "compute", "live", "fairness", "tenancy", "crash", "fakes",
    ]
    .contains(&module)
}

#[test]
fn no_adapter_imports_another() {
    let groups = [
        "store",
        "llm",
        "systems",
        "limiter",
        "embedding",
        "schema_check",
        "pdf",
        "index",
    ];
    // What has a folder of its own beside others of its kind. Folders that these share do not count.
    let siblings = [
        folders("src/adapters/store"),
        folders("src/adapters/index"),
        folders("src/adapters/llm")
            .into_iter()
            .filter(|name| name != "provider")
            .collect(),
        folders("src/adapters/systems")
            .into_iter()
            .filter(|name| name != "tools")
            .collect(),
    ];
    for import in imports::of_crate("src") {
        let [adapters, own, ..] = import.from.as_slice() else {
            continue;
        };
        if adapters != "adapters" || import.krate != "crate" {
            continue;
        }
        if let [first, other, ..] = import.path.as_slice()
            && first == "adapters"
            && groups.contains(&other.as_str())
        {
            assert_eq!(own, other, "{} imports adapters::{other}", import.file);
        }
        for siblings in &siblings {
            let inside = siblings.iter().find(|name| import.from.contains(name));
            let reaches = siblings.iter().find(|name| import.path.contains(name));
            if let (Some(inside), Some(reaches)) = (inside, reaches) {
                assert_eq!(inside, reaches, "{} imports {reaches}", import.file);
            }
        }
    }
}

/// A port is a trait that adapters implement; it belongs to the crate that calls it.
#[test]
fn ports_live_in_the_inner_crates() {
    for path in imports::files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "rs") {
        let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
        assert!(
            !text.contains("#[async_trait]\npub trait"),
            "{} declares a port",
            imports::relative(&path)
        );
    }
}

/// A new kind of system is one folder and one line in the registry: nothing else in the adapters names a kind.
#[test]
fn only_the_registry_knows_every_kind_of_system() {
    let folders = folders("src/adapters/systems");
    assert!(folders.len() > 2, "{folders:?}");
    for folder in &folders {
        let is_other = |other: &&String| *other != folder && *other != "tools";
        let mut others: Vec<String> = folders
            .iter()
            .filter(is_other)
            .map(|other| format!("{other}::"))
            .collect();
        others.push("kinds::".to_owned());
        for (file, text) in sources(&format!("src/adapters/systems/{folder}")) {
            for other in &others {
                assert!(!text.contains(other), "{file} names {other}");
            }
        }
    }
}

/// Names the folders in a folder.
fn folders(path: &str) -> Vec<String> {
    let entries = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("the folder exists");
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn no_file_is_too_long() {
    let mut lengths = Vec::new();
    for root in ["actors", "gateway", "knowledge", "src", "sim", "tests"] {
        for path in imports::files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(root), "rs") {
            let lines = std::fs::read_to_string(&path)
                .expect("sources are UTF-8")
                .lines()
                .count();
            assert!(lines <= 700, "{} has {lines} lines", imports::relative(&path));
            lengths.push(lines);
        }
    }
    lengths.sort_unstable();
    let nine_in_ten = lengths[lengths.len() * 9 / 10];
    assert!(nine_in_ten <= 400, "nine in ten files have up to {nine_in_ten} lines");
}

#[test]
fn the_domain_awaits_nothing_and_reads_no_clock() {
    for (file, text) in sources("actors/src/domain") {
        for banned in [
            "async fn",
            ".await;",
            ".await?",
            ".await.",
            ".await)",
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
fn systems_index_no_json() {
    for (file, text) in sources("src/adapters/systems") {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (at, _) in code.match_indices("[\"") {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            let is_index = before.is_alphanumeric() || matches!(before, '_' | ')' | ']');
            assert!(!is_index, "{file} indexes: {}", &code[at.saturating_sub(40)..at + 2]);
        }
    }
}

/// Returns every Rust file below a folder, without comment lines.
fn sources(folder: &str) -> Vec<(String, String)> {
    let files = imports::files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), "rs");
    assert!(!files.is_empty(), "{folder} has no sources");
    let read = files.into_iter().map(|path| {
        let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        (imports::relative(&path), lines.collect::<Vec<_>>().join("\n"))
    });
    read.collect()
}
