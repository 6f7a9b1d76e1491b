//! PDF documents, read by child processes of the real program: whatever a document does, its reading ends, with a named
//! error if it fails, and this process is not affected.

mod builtin;
pub mod documents;
mod evaluation;
mod mutations;
mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use copilotd::adapters::pdf::{PdfPool, Settings};
use copilotd_actors::domain::ids::TenantId;
use copilotd_knowledge::extract::{ExtractError, Limits, PdfPages, PdfText as _};

use documents::{burning, document, encrypted, pages};

/// Longest time for anything here; a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(150);

/// Returns the library's path. `None` if this machine has none: CI then fails, any other run prints what it skips.
pub fn library() -> Option<PathBuf> {
    let set = std::env::var_os("COPILOTD_PDFIUM").map(PathBuf::from);
    let found = set.filter(|file| file.is_file());
    if found.is_none() {
        let in_ci = std::env::var_os("CI").is_some();
        assert!(!in_ci, "no PDFium: scripts/setup fetches it and sets COPILOTD_PDFIUM");
        eprintln!("skipped: no PDFium (scripts/setup; COPILOTD_PDFIUM)");
    }
    found
}

/// Settings under which only what a test is about ends a document.
fn ample(library: PathBuf) -> Settings {
    Settings {
        workers: 2,
        deadline: PATIENCE,
        wait: PATIENCE,
        processor_seconds: PATIENCE.as_secs(),
        ..Settings::of(library)
    }
}

fn pool(settings: Settings) -> PdfPool {
    PdfPool::new(PathBuf::from(env!("CARGO_BIN_EXE_copilotd")), settings)
}

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

async fn read(pool: &PdfPool, content: &[u8]) -> Result<PdfPages, ExtractError> {
    read_within(pool, content, &Limits::default()).await
}

async fn read_within(pool: &PdfPool, content: &[u8], limits: &Limits) -> Result<PdfPages, ExtractError> {
    let tenant = tenant("acme");
    let read = pool.pages(&tenant, content, limits);
    tokio::time::timeout(PATIENCE * 2, read)
        .await
        .expect("every reading ends")
}

/// Returns the numbers of this process's children that read documents.
fn children() -> Vec<String> {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let is_child = |entry: &std::fs::DirEntry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        // After the name in parentheses: the state, then the parent.
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
        parent == Some(own.as_str()) && command.contains("extract-pdf")
    };
    let names = processes.filter(is_child).map(|entry| entry.file_name());
    names.filter_map(|name| name.into_string().ok()).collect()
}

#[tokio::test]
async fn documents_have_pages_and_a_title() {
    let Some(library) = library() else { return };
    let pool = pool(ample(library));
    assert_eq!(pool.probe().await, Ok(()));
    let content = pages(&["Refunds take five days.", "", "Second page"], "/Title(The Handbook)");
    let read = read(&pool, &content).await.unwrap();
    assert_eq!(read.title.as_deref(), Some("The Handbook"));
    let texts: Vec<&str> = read.pages.iter().map(|page| page.trim()).collect();
    assert_eq!(texts, ["Refunds take five days.", "", "Second page"]);
}

#[tokio::test]
async fn text_is_in_the_order_in_which_it_is_drawn_and_annotations_are_not_in_it() {
    let Some(library) = library() else { return };
    let content = "BT /F 12 Tf 20 100 Td (Drawn first) Tj ET BT /F 12 Tf 20 700 Td (drawn last) Tj ET";
    let drawn = format!("<</Length {}>>\nstream\n{content}\nendstream", content.len());
    let note = "BT /F 12 Tf 0 0 Td (noted) Tj ET";
    let note = format!(
        "<</Type/XObject/Subtype/Form/BBox[0 0 99 20]/Resources<</Font<</F 3 0 R>>>>/Length {}>>\nstream\n{note}\nendstream",
        note.len()
    );
    let document = document(
        &[
            "<</Type/Catalog/Pages 2 0 R>>",
            "<</Type/Pages/Kids[4 0 R]/Count 1>>",
            "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
            "<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 5 0 R/Resources<</Font<</F 3 0 R>>>>/Annots[6 0 R]>>",
            &drawn,
            "<</Type/Annot/Subtype/FreeText/Rect[20 400 119 420]/Contents(noted)/AP<</N 7 0 R>>>>",
            &note,
        ],
        "",
    );
    let read = read(&pool(ample(library)), &document).await.unwrap();
    let words: Vec<&str> = read.pages[0].split_whitespace().collect();
    assert_eq!(words, ["Drawn", "first", "drawn", "last"]);
}

#[tokio::test]
async fn what_cannot_be_read_has_a_named_error() {
    let Some(library) = library() else { return };
    let pool = pool(ample(library));
    let whole = pages(&["Text"], "");
    let tight = Limits {
        pages: 2,
        text_bytes: 40,
        ..Limits::default()
    };
    for (what, content, expected) in [
        ("nothing", Vec::new(), ExtractError::Damaged),
        ("no PDF", b"GIF89a".repeat(1_000), ExtractError::Damaged),
        ("half", whole[..whole.len() / 3].to_vec(), ExtractError::Damaged),
        ("no page", pages(&[], ""), ExtractError::Damaged),
        ("encrypted", encrypted(), ExtractError::Encrypted),
        ("many pages", pages(&["a", "b", "c"], ""), ExtractError::TooManyPages),
        (
            "much text",
            pages(&["This is a page of more than forty bytes."; 2], ""),
            ExtractError::TooLarge,
        ),
    ] {
        assert_eq!(read_within(&pool, &content, &tight).await, Err(expected), "{what}");
    }
    let missing = self::pool(ample("/no/such/library".into()));
    assert_eq!(read(&missing, &whole).await, Err(ExtractError::PdfUnavailable));
    assert_eq!(missing.probe().await, Err(ExtractError::PdfUnavailable));
    let other = self::pool(ample("/proc/self/exe".into()));
    assert_eq!(read(&other, &whole).await, Err(ExtractError::PdfUnavailable));
}

#[tokio::test]
async fn a_document_that_takes_too_much_is_ended() {
    let Some(library) = library() else { return };
    let slow = pool(Settings {
        processor_seconds: 1,
        ..ample(library.clone())
    });
    assert_eq!(read(&slow, &burning()).await, Err(ExtractError::TimedOut));
    let late = pool(Settings {
        deadline: Duration::from_secs(2),
        ..ample(library.clone())
    });
    assert_eq!(read(&late, &burning()).await, Err(ExtractError::TimedOut));
    let small = pool(Settings {
        memory: 32 * 1024 * 1024,
        ..ample(library)
    });
    let mut large = document(&["<</Type/Catalog>>"], "");
    large.resize(64 * 1024 * 1024, b' ');
    assert_eq!(read(&small, &large).await, Err(ExtractError::OutOfMemory));
    let after = pages(&["Still there"], "");
    assert!(read(&small, &after).await.is_ok());
}

#[tokio::test]
async fn a_reader_has_no_network_no_files_and_no_environment() {
    let Some(library) = library() else { return };
    sandboxed(ample(library), burning()).await;
}

/// Looks at a process while it reads a document that takes long.
async fn sandboxed(settings: Settings, content: Vec<u8>) {
    // Inherited by every process that this one starts.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let pool = pool(settings);
    let mut reading = Box::pin(read(&pool, &content));
    let observed = async {
        loop {
            // Once it has limited its files it has everything else behind it.
            for process in children() {
                let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap_or_default();
                if limit(&limits, "Max open files") == Some(3) {
                    return (process, limits);
                }
            }
            tokio::task::yield_now().await;
        }
    };
    let (process, limits) = tokio::select! {
        read = &mut reading => panic!("it ended: {read:?}"),
        observed = observed => observed,
    };
    assert_eq!(limit(&limits, "Max file size"), Some(0));
    assert_eq!(limit(&limits, "Max core file size"), Some(0));
    assert_eq!(limit(&limits, "Max processes"), Some(0));
    assert_eq!(limit(&limits, "Max cpu time"), Some(PATIENCE.as_secs()));
    assert!(limit(&limits, "Max address space").is_some_and(|bytes| bytes < 2 << 30));
    let proc = Path::new("/proc").join(&process);
    let nice = |stat: &Path| -> i32 {
        // The 19th field; the first two end with the name in parentheses.
        let stat = std::fs::read_to_string(stat).unwrap();
        let rest = stat.rsplit(") ").next().unwrap();
        rest.split(' ').nth(16).unwrap().parse().unwrap()
    };
    assert_eq!(
        nice(&proc.join("stat")),
        (nice(Path::new("/proc/self/stat")) + 10).min(19)
    );
    assert_eq!(std::fs::read_to_string(proc.join("oom_score_adj")).unwrap(), "500\n");
    let files = std::fs::read_dir(proc.join("fd")).unwrap().flatten();
    let mut numbers: Vec<_> = files.map(|file| file.file_name().into_string().unwrap()).collect();
    numbers.sort();
    assert_eq!(numbers, ["0", "1", "2"]);
    // Where users may create one, the process has a network of its own; elsewhere it still cannot open a socket.
    let network = |process: &Path| std::fs::read_link(process.join("ns/net")).unwrap();
    let mut own = std::process::Command::new("unshare");
    if own
        .args(["-U", "-n", "true"])
        .output()
        .is_ok_and(|done| done.status.success())
    {
        assert_ne!(network(&proc), network(Path::new("/proc/self")));
    }
    let environment = std::fs::read_to_string(proc.join("environ")).unwrap();
    assert_eq!(environment, "MALLOC_ARENA_MAX=1\0");
    drop((listener, reading));
}

/// Returns the soft limit of this name in the system's table.
fn limit(table: &str, name: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[tokio::test]
async fn dropping_a_call_kills_its_process() {
    let Some(library) = library() else { return };
    let pool = pool(ample(library));
    let content = burning();
    let reading = read(&pool, &content);
    let started = async {
        while children().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        read = reading => panic!("it ended: {read:?}"),
        () = started => {}
    }
    let gone = async {
        while !children().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

/// Programs that a document could turn its reader into.
#[tokio::test]
async fn a_reader_that_misbehaves_harms_nobody() {
    let directory = tempfile::tempdir().unwrap();
    for (number, (script, expected)) in [
        ("printf r; kill -ABRT $$", ExtractError::OutOfMemory),
        ("printf r; kill -SEGV $$", ExtractError::Damaged),
        ("printf r; kill -XCPU $$", ExtractError::TimedOut),
        ("printf r; kill -TERM $$", ExtractError::Damaged),
        ("printf r; exit 0", ExtractError::Damaged),
        ("printf r; exec sleep 1000", ExtractError::TimedOut),
        ("printf r; exec cat /dev/zero", ExtractError::Damaged),
        (
            "printf 'rp\\377\\377\\377\\377'; exec cat /dev/zero",
            ExtractError::TooLarge,
        ),
        (
            "printf r; while :; do printf 'p\\000\\000\\000\\000'; done",
            ExtractError::TooLarge,
        ),
        ("printf 'rf\\011\\000\\000\\000encrypted'", ExtractError::Encrypted),
        ("printf 'rf\\003\\000\\000\\000own'", ExtractError::Damaged),
        ("printf 'rf\\004\\000\\000\\000busy'", ExtractError::Damaged),
        ("printf 'rf\\017\\000\\000\\000pdf_unavailable'", ExtractError::Damaged),
        ("printf u", ExtractError::Busy),
        ("printf l", ExtractError::PdfUnavailable),
        ("exit 1", ExtractError::Busy),
    ]
    .into_iter()
    .enumerate()
    {
        let pool = pool_of_script(&directory.path().join(number.to_string()), script);
        // More than a pipe holds.
        let content = vec![b'x'; 1024 * 1024];
        assert_eq!(read(&pool, &content).await, Err(expected), "{script}");
    }
}

/// A service that is stopped tells all its processes to end.
#[tokio::test]
async fn a_document_whose_reader_was_told_to_end_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let told = directory.path().join("told");
    let told = told.display();
    let script = format!("printf r; [ -e {told} ] || {{ : >{told}; kill -TERM $$; }}; printf 'd\\000\\000\\000\\000'");
    let pool = pool_of_script(&directory.path().join("reader"), &script);
    assert_eq!(read(&pool, b"content").await, Ok(PdfPages::default()));
}

/// Returns a pool whose processes run a shell script, written to `program`.
fn pool_of_script(program: &Path, script: &str) -> PdfPool {
    std::fs::write(program, format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(program, executable).unwrap();
    let settings = Settings {
        deadline: Duration::from_secs(10),
        ..ample("/none".into())
    };
    PdfPool::new(program.to_owned(), settings)
}
