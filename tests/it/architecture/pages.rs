//! Paths that pages name exist.

use std::path::{Path, PathBuf};

use super::imports;

/// Folders whose pages are not ours, or are built.
const NOT_OURS: [&str; 3] = ["target", "node_modules", ".git"];

#[test]
fn paths_that_pages_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut missing = Vec::new();
    for page in pages(root) {
        let text = std::fs::read_to_string(&page).expect("pages are UTF-8");
        let folder = page.parent().expect("a file has a folder");
        for link in links(&text) {
            if !folder.join(&link).exists() {
                missing.push(format!("{} links to {link}", imports::relative(&page)));
            }
        }
        for path in quoted_paths(&text) {
            let found = [
                root,
                &root.join("actors/src"),
                &root.join("gateway/src"),
                &root.join("knowledge/src"),
                &root.join("src"),
                folder,
            ]
            .iter()
            .any(|base| base.join(&path).exists());
            if !found {
                missing.push(format!("{} names {path}", imports::relative(&page)));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !NOT_OURS.contains(&name.as_str()) {
            found.extend(pages(&path));
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
    found
}

/// Returns the relative targets of a page's links.
fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local = targets.filter(|target| {
        !target.is_empty() && !target.contains("://") && !target.starts_with(['#', '/']) && !target.contains(' ')
    });
    local
        .filter_map(|target| target.split('#').next())
        .filter(|target| !target.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

/// Returns what a page quotes that can only be a path of ours: a word in backticks that ends like a source file and has a
/// folder. One with braces stands for several.
fn quoted_paths(text: &str) -> Vec<String> {
    let mut inside_block = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside_block = !inside_block;
            continue;
        }
        if inside_block {
            continue;
        }
        for quoted in line.split('`').skip(1).step_by(2) {
            let is_path = quoted.contains('/')
                && !quoted.starts_with(['/', '<', '$', '~'])
                && !quoted.contains([' ', '<', '*', '$', '('])
                && [".rs", ".md", ".toml", ".json", ".mjs", ".jsonl", ".lua"]
                    .iter()
                    .any(|end| quoted.ends_with(end));
            if is_path {
                found.extend(expand(quoted));
            }
        }
    }
    found
}

/// Expands `a/{b,c}.rs`.
fn expand(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else {
        return vec![path.to_owned()];
    };
    let Some((choices, after)) = rest.split_once('}') else {
        return vec![path.to_owned()];
    };
    let each = choices
        .split(',')
        .map(|choice| format!("{before}{}{after}", choice.trim()));
    each.flat_map(|path| expand(&path)).collect()
}

#[test]
fn links_and_paths_are_found() {
    let text = "See [a](b.md#c), [x](https://y.z) and `src/{main,lib}.rs`, not `a b/c.rs`.\n```\n`no/file.rs`\n```\n";
    assert_eq!(links(text), ["b.md"]);
    assert_eq!(quoted_paths(text), ["src/main.rs", "src/lib.rs"]);
}
