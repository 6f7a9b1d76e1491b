//! PDF documents, read in child processes: [`PdfText`] for the product.
//!
//! By PDFium, the C++ library of Chromium, loaded from a file that the configuration names, or else by a reader that is
//! part of the program and finds less. Documents come from anywhere,
//! and some are made to exploit their readers. So each document gets a process of its own (`copilotd extract-pdf`), with
//! limits on memory, processor time, files and network, which ends with it: nothing of one document is left when the
//! next one is read.
//!
//! Invariant: a document occupies one process for at most twice the deadline, and one tenant occupies at most half of the
//! processes. Dropping a call kills its process.

mod builtin;
mod engine;
mod frame;
mod readable;
mod worker;

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;
use copilotd_knowledge::extract::{ExtractError, Limits, PdfPages, PdfText};
use metrics::{counter, histogram};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::ChildStdout;
use tokio::time::{Instant, timeout};

use super::child::permits::Permits;
use super::child::{self, READY};
use frame::Tag;
pub use worker::{ARGUMENT, run as run_worker};

/// A document of one page with the text "Ready".
const PROBE: &[u8] = b"%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>endobj
4 0 obj<</Length 31>>stream
BT/F 9 Tf 9 9 Td(Ready)Tj ET   
endstream endobj
5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj
trailer<</Root 1 0 R>>
%%EOF";

/// Workers that a document gets, if each of them is told to end.
const ATTEMPTS: u32 = 2;

/// Limits of the pool.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The PDFium library; without it the reader that is part of the program is used.
    pub library: Option<PathBuf>,
    /// Documents that are read concurrently.
    pub workers: usize,
    /// Longest time that one document is read; then its process is killed.
    pub deadline: Duration,
    /// Longest time that a document waits for a process.
    pub wait: Duration,
    /// Processor time that one document may take, in seconds.
    pub processor_seconds: u64,
    /// Memory that one document may take, in bytes, beyond what the program itself takes.
    pub memory: u64,
}

impl Settings {
    /// Returns the defaults for a library.
    pub fn of(library: PathBuf) -> Self {
        Self {
            library: Some(library),
            ..Self::built_in()
        }
    }

    /// Returns the defaults for the reader that is part of the program.
    pub fn built_in() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            library: None,
            workers: (cores / 2).clamp(1, 4),
            deadline: Duration::from_secs(60),
            wait: Duration::from_secs(300),
            processor_seconds: 30,
            memory: 512 * 1024 * 1024,
        }
    }
}

/// The pool. It has no idle processes.
pub struct PdfPool {
    program: PathBuf,
    settings: Settings,
    permits: Arc<Permits>,
}

impl std::fmt::Debug for PdfPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PdfPool")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl PdfPool {
    /// Creates a pool of processes of `program`, which has to be this one.
    pub fn new(program: PathBuf, settings: Settings) -> Self {
        let workers = settings.workers.max(1);
        Self {
            program,
            settings,
            permits: Permits::new(workers, (workers / 2).max(1)),
        }
    }

    /// Reads a document made for it, to find out whether the library works.
    pub async fn probe(&self) -> Result<(), ExtractError> {
        let pages = self.read(PROBE, &Limits::default()).await?;
        match pages.pages.as_slice() {
            [page] if page.trim() == "Ready" => Ok(()),
            _ => Err(ExtractError::PdfUnavailable),
        }
    }

    async fn read(&self, content: &[u8], limits: &Limits) -> Result<PdfPages, ExtractError> {
        for _ in 0..ATTEMPTS {
            if let Ok(read) = self.try_read(content, limits).await {
                return read;
            }
        }
        // It stops its readers itself: trying it again and again would delay all other documents.
        Err(ExtractError::Damaged)
    }

    async fn try_read(&self, content: &[u8], limits: &Limits) -> Result<Result<PdfPages, ExtractError>, Stopped> {
        let process = match self.start(limits).await {
            Ok(process) => process,
            Err(error) => return Ok(Err(error)),
        };
        let child::Process {
            mut child,
            mut to,
            mut from,
            ..
        } = process;
        let mut exchange = Exchange {
            limits: *limits,
            pages: PdfPages::default(),
            bytes: 0,
        };
        let feed = async move {
            // A worker that dies before it has read everything says so by its end.
            let _ = to.write_all(content).await;
            drop(to);
            std::future::pending::<Infallible>().await
        };
        let read = async {
            let received = tokio::select! {
                received = exchange.receive(&mut from) => received,
                never = feed => match never {},
            };
            match received {
                Ok(()) => Ok(Ok(())),
                Err(Some(error)) => Ok(Err(error)),
                Err(None) => match child.wait().await {
                    Ok(status) => cause(status).map(Err),
                    Err(_) => Ok(Err(ExtractError::Busy)),
                },
            }
        };
        match timeout(self.settings.deadline, read).await {
            Ok(Ok(Ok(()))) => Ok(Ok(exchange.pages)),
            Ok(Ok(Err(error))) => Ok(Err(error)),
            Ok(Err(stopped)) => Err(stopped),
            // Dropping the child kills it.
            Err(_elapsed) => Ok(Err(ExtractError::TimedOut)),
        }
    }

    async fn start(&self, limits: &Limits) -> Result<child::Process, ExtractError> {
        let process = child::start(&self.program, self.arguments(limits)).await;
        let process = process.map_err(|error| {
            tracing::error!(%error, "cannot start a process to read a PDF document");
            ExtractError::Busy
        })?;
        if process.first == READY {
            return Ok(process);
        }
        tracing::error!(
            library = %self.settings.library.as_deref().unwrap_or(Path::new("")).display(),
            "PDFium library cannot be loaded; PDF documents are refused"
        );
        Err(ExtractError::PdfUnavailable)
    }

    fn arguments(&self, limits: &Limits) -> [OsString; 6] {
        [
            ARGUMENT.into(),
            self.settings.library.clone().unwrap_or_default().into(),
            self.settings.memory.to_string().into(),
            self.settings.processor_seconds.to_string().into(),
            limits.pages.to_string().into(),
            limits.text_bytes.to_string().into(),
        ]
    }
}

#[async_trait]
impl PdfText for PdfPool {
    async fn pages(&self, tenant: &TenantId, content: &[u8], limits: &Limits) -> Result<PdfPages, ExtractError> {
        let waiting = self.permits.permit(tenant).map_err(|_full| ExtractError::Busy)?;
        let permit = timeout(self.settings.wait, waiting).await;
        let permit = permit.map_err(|_elapsed| ExtractError::Busy)?;
        let begun = Instant::now();
        let read = self.read(content, limits).await;
        histogram!("copilotd_pdf_extraction_seconds").record(begun.elapsed().as_secs_f64());
        drop(permit);
        let outcome = read.as_ref().map_or_else(|error| error.code(), |_| "done");
        counter!("copilotd_pdf_extractions_total", "outcome" => outcome).increment(1);
        read
    }
}

/// What a worker has sent so far.
struct Exchange {
    limits: Limits,
    pages: PdfPages,
    bytes: usize,
}

impl Exchange {
    /// Receives all frames; `Err(None)` if they end early.
    async fn receive(&mut self, from: &mut ChildStdout) -> Result<(), Option<ExtractError>> {
        loop {
            let tag = from.read_u8().await.map_err(ended)?;
            let length = from.read_u32_le().await.map_err(ended)?;
            let length = usize::try_from(length).map_err(|_| ExtractError::TooLarge)?;
            self.bytes = self.bytes.saturating_add(length);
            let too_many = u32::try_from(self.pages.pages.len()).is_ok_and(|pages| pages > self.limits.pages);
            // The worker stops before: this is for one that a document has taken over.
            if self.bytes > self.limits.text_bytes.saturating_add(frame::LONGEST_TITLE) || too_many {
                return Err(Some(ExtractError::TooLarge));
            }
            let mut text = vec![0; length];
            from.read_exact(&mut text).await.map_err(ended)?;
            let text = String::from_utf8_lossy(&text).into_owned();
            match Tag::of(tag) {
                Some(Tag::Title) => self.pages.title = Some(text),
                Some(Tag::Page) => self.pages.pages.push(text),
                Some(Tag::Done) => return Ok(()),
                Some(Tag::Failed) => return Err(Some(failure(&text))),
                None => return Err(Some(ExtractError::Damaged)),
            }
        }
    }
}

/// The end of a worker's output, which says nothing by itself.
fn ended(_: std::io::Error) -> Option<ExtractError> {
    None
}

/// Returns the error that a worker names. One that a document has taken over cannot make this process try again.
fn failure(code: &str) -> ExtractError {
    match ExtractError::from_code(code) {
        None | Some(ExtractError::Busy | ExtractError::PdfUnavailable) => ExtractError::Damaged,
        Some(error) => error,
    }
}

/// A worker was told to end, as all processes of a service are when it is stopped.
struct Stopped;

/// Returns what the end of a worker that sent no result says about its document.
fn cause(status: ExitStatus) -> Result<ExtractError, Stopped> {
    let signal = status.signal().and_then(Signal::from_named_raw);
    match signal {
        Some(Signal::XCPU) => Ok(ExtractError::TimedOut),
        // Both PDFium and Rust abort when they get no memory; the system kills when it has none.
        Some(Signal::ABORT | Signal::KILL) => Ok(ExtractError::OutOfMemory),
        Some(Signal::TERM | Signal::INT | Signal::HUP) => Err(Stopped),
        _ => Ok(ExtractError::Damaged),
    }
}
