//! Checks of `deploy/` that need neither a container runtime nor a service manager.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the files of the checkout that the ignore file lets into the build context: the last matching pattern
/// decides.
fn let_through() -> BTreeSet<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rules = std::fs::read_to_string(root.join("deploy/Dockerfile.dockerignore")).unwrap();
    let rules: Vec<(bool, &str)> = rules
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.strip_prefix('!').map_or((false, line), |kept| (true, kept)))
        .collect();
    let mut found = BTreeSet::new();
    walk(root, Path::new(""), &rules, &mut found);
    found
}

fn walk(root: &Path, below: &Path, rules: &[(bool, &str)], found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(root.join(below)).unwrap() {
        let entry = entry.unwrap();
        let path = below.join(entry.file_name());
        // Never in the context, and large.
        let at_the_top = below.as_os_str().is_empty() && matches!(entry.file_name().to_str(), Some("target" | ".git"));
        if at_the_top || entry.file_name() == "node_modules" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            walk(root, &path, rules, found);
            continue;
        }
        let kept = rules
            .iter()
            .rev()
            .find(|(_, pattern)| fits(pattern, &path))
            .is_none_or(|(kept, _)| *kept);
        if kept {
            found.insert(path);
        }
    }
}

/// Whether a pattern matches a file or a directory above it. Supports the Docker patterns that the file uses: a path,
/// `*` and `**/name`.
fn fits(pattern: &str, path: &Path) -> bool {
    if let Some(name) = pattern.strip_prefix("**/") {
        return path.components().any(|part| part.as_os_str() == name);
    }
    assert!(
        pattern == "*" || !pattern.contains(['*', '?', '[']),
        "a pattern that this test does not know: {pattern}"
    );
    pattern == "*" || path.starts_with(pattern)
}

/// Removes `..` steps from the path of an included file.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => _ = plain.pop(),
            part => plain.push(part),
        }
    }
    plain
}

/// Returns every file that the compiler read for the program, including texts and schemas, from its dependency files.
fn read_by_the_build() -> BTreeSet<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = Path::new(env!("CARGO_BIN_EXE_copilotd")).parent().unwrap().join("deps");
    let mut found = BTreeSet::from([PathBuf::from("build.rs")]);
    for entry in std::fs::read_dir(&built).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let ours = [
            "copilotd-",
            "copilotd_actors-",
            "copilotd_gateway-",
            "copilotd_knowledge-",
            "copilotd_sim-",
        ]
        .iter()
        .any(|start| name.starts_with(start));
        if !ours || !name.ends_with(".d") {
            continue;
        }
        let list = std::fs::read_to_string(&path).unwrap();
        // A space in a path is escaped with a backslash.
        let files = list
            .lines()
            .filter_map(|line| line.strip_suffix(':'))
            .map(|file| PathBuf::from(file.replace("\\ ", " ")));
        found.extend(files.map(|file| plain(file.strip_prefix(root).unwrap_or(&file))));
    }
    // An older build may have read files that no longer exist, and other builds list their outputs too.
    found.retain(|file| file.is_relative() && root.join(file).is_file() && !file.starts_with("target"));
    // Clippy's lists are beside the compiler's; only Clippy reads this file.
    found.remove(Path::new("clippy.toml"));
    found
}

/// The platform that the tests run on, as the compiler names it.
fn host() -> String {
    let said = Command::new("rustc").arg("-vV").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.unwrap().to_owned()
}

#[test]
fn the_image_is_built_from_all_that_the_build_reads() {
    let through = let_through();
    let read = read_by_the_build();
    assert!(
        read.len() > 100 && read.contains(Path::new("src/main.rs")),
        "{} files",
        read.len()
    );
    let missing: Vec<&PathBuf> = read.difference(&through).collect();
    assert!(
        missing.is_empty(),
        "the build reads these, and deploy/Dockerfile.dockerignore keeps them out: {missing:?}"
    );

    // Cargo reads the manifest of every member, built or not, and the lock file has to fit all of them. For this platform
    // only: the build has downloaded nothing for others.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = tempfile::tempdir().unwrap();
    for file in &through {
        let to = copy.path().join(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(root.join(file), to).unwrap();
    }
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1"])
        .args(["--filter-platform", &host()])
        .current_dir(copy.path())
        .output()
        .unwrap();
    assert!(
        metadata.status.success(),
        "{}",
        String::from_utf8_lossy(&metadata.stderr)
    );
    // Files named in COPY are in the context too.
    let dockerfile = std::fs::read_to_string(root.join("deploy/Dockerfile")).unwrap();
    let copies = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|line| !line.starts_with("--from"));
    for copied in copies
        .filter_map(|line| line.split(' ').next())
        .filter(|copied| *copied != ".")
    {
        assert!(through.contains(Path::new(copied)), "COPY {copied}");
    }
}

/// The commands that the container and the service run exist in this program.
#[test]
fn what_is_started_can_be_started() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = "/usr/local/bin/copilotd ";
    let service = std::fs::read_to_string(root.join("deploy/copilotd.service")).unwrap();
    let dockerfile = std::fs::read_to_string(root.join("deploy/Dockerfile")).unwrap();
    let of_service = service
        .lines()
        .filter_map(|line| line.split_once(program).filter(|(key, _)| key.starts_with("Exec")));
    let mut commands: Vec<Vec<String>> = of_service
        .map(|(_, args)| args.split(' ').map(str::to_owned).collect())
        .collect();
    for line in dockerfile.lines().filter(|line| line.trim_start().starts_with("CMD ")) {
        let list: Vec<String> = serde_json::from_str(line.trim_start().trim_start_matches("CMD ")).unwrap();
        commands.push(list.into_iter().filter(|word| word != program.trim()).collect());
    }
    assert!(commands.len() >= 5, "{commands:?}");
    for mut command in commands {
        // Only checks that its arguments parse.
        command.push("--help".to_owned());
        let output = Command::new(env!("CARGO_BIN_EXE_copilotd"))
            .args(&command)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for setting in [
        "Type=notify",
        "ExecReload=",
        "LoadCredential=",
        "SystemCallFilter=@resources",
    ] {
        assert!(service.lines().any(|line| line.starts_with(setting)), "{setting}");
    }
    assert!(dockerfile.contains("HEALTHCHECK") && dockerfile.contains("--profile dist"));
}
