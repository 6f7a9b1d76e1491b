//! Passes the git commit to the program as `COPILOTD_COMMIT`: from the environment variable of that name, else from the
//! checkout, else `unknown`.
//!
//! Also makes cargo compile the program again when an embedded page is added to or removed from its directory.
#![expect(
    clippy::disallowed_methods,
    reason = "Cargo configures build scripts through the environment"
)]

use std::path::{Path, PathBuf};

fn main() {
    // The compiler tracks the embedded files, but not the directory: without this, a new file would be missed.
    println!("cargo::rerun-if-changed=web/dist");
    println!("cargo::rerun-if-changed=docs/problems");
    println!("cargo::rerun-if-env-changed=COPILOTD_COMMIT");
    let given = std::env::var("COPILOTD_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty());
    let commit = given
        .or_else(commit_of_checkout)
        .unwrap_or_else(|| "unknown".to_owned());
    println!(
        "cargo::rustc-env=COPILOTD_COMMIT={}",
        commit.get(..12).unwrap_or(&commit)
    );
}

/// Reads the current commit from the `.git` directory, without running git.
fn commit_of_checkout() -> Option<String> {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?);
    let git = git_directory(&root.join(".git"))?;
    let head = read(&git.join("HEAD"))?;
    let Some(name) = head.strip_prefix("ref: ") else {
        return Some(head);
    };
    // A worktree has its own HEAD; branches are in the common directory.
    let common = read(&git.join("commondir")).map_or_else(|| git.clone(), |path| git.join(path));
    read(&common.join(name)).or_else(|| packed(&common.join("packed-refs"), name))
}

fn git_directory(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return Some(path.to_owned());
    }
    let link = read(path)?;
    Some(path.parent()?.join(link.strip_prefix("gitdir: ")?))
}

fn packed(path: &Path, name: &str) -> Option<String> {
    let refs = read(path)?;
    let mut commits = refs.lines().filter_map(|line| line.split_once(' '));
    commits
        .find(|(_, known)| *known == name)
        .map(|(commit, _)| commit.to_owned())
}

fn read(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    println!("cargo::rerun-if-changed={}", path.display());
    Some(text.trim().to_owned())
}
