//! The child process: `copilotd extract-pdf LIBRARY MEMORY SECONDS PAGES BYTES`, where an empty LIBRARY stands for the reader
//! that is part of the program. Reads a document from standard input and writes frames to standard output.

use std::ffi::OsString;
use std::io::{Read as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use copilotd_knowledge::extract::ExtractError;
use rustix::process::Resource;

use super::super::child::limits;
use super::super::child::{READY, UNLIMITED};
use super::builtin;
use super::engine::Library;
use super::frame::{LONGEST_TITLE, Tag};
use super::readable::Readable;

/// First argument of such a process. Not a command for people, so it is not in the help.
pub const ARGUMENT: &str = "extract-pdf";

/// First byte of a worker that cannot load the library; it exits.
const NO_LIBRARY: u8 = b'l';
/// Files that may be open: the three standard ones.
const FILES: u64 = 3;

struct Arguments {
    library: Option<PathBuf>,
    memory: u64,
    seconds: u64,
    pages: u32,
    bytes: usize,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let library = Some(arguments.next()?).filter(|library| !library.is_empty());
        let mut number = || arguments.next()?.to_str()?.parse::<u64>().ok();
        Some(Self {
            library: library.map(PathBuf::from),
            memory: number()?,
            seconds: number()?,
            pages: u32::try_from(number()?).ok()?,
            bytes: usize::try_from(number()?).ok()?,
        })
    }
}

/// Runs a worker with the arguments after [`ARGUMENT`].
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    limits::close_inherited();
    let Some(arguments) = Arguments::parse(arguments) else {
        return ExitCode::FAILURE;
    };
    let first = |byte: u8| {
        let mut output = std::io::stdout();
        output.write_all(&[byte]).and_then(|()| output.flush())
    };
    leave_network();
    let library = match &arguments.library {
        None => None,
        Some(path) => match Library::load(path) {
            Some(library) => Some(library),
            None => {
                let _ = first(NO_LIBRARY);
                return ExitCode::FAILURE;
            }
        },
    };
    if limits::apply(arguments.memory).is_err() || limits::set_processor_seconds(arguments.seconds).is_err() {
        // The parent refuses to work with it, whether this arrives or not.
        let _ = first(UNLIMITED);
        return ExitCode::FAILURE;
    }
    // From here on it opens no file and no socket, and starts no process.
    let _ = limits::set(Resource::Nofile, FILES);
    let _ = limits::set(Resource::Nproc, 0);
    if first(READY).is_err() {
        return ExitCode::FAILURE;
    }
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    let last = match extract(library.as_ref(), &arguments, &mut output) {
        Ok(()) => Tag::Done.write("", &mut output),
        Err(error) => Tag::Failed.write(error.code(), &mut output),
    };
    match last.and_then(|()| output.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Moves to a network without interfaces. Not everywhere allowed, and not all there is: no socket can be opened once
/// the number of files is limited.
#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "a system call that can affect other threads; there are none yet"
)]
fn leave_network() {
    use rustix::thread::UnshareFlags;
    // SAFETY: this is the only thread, and no table of files is unshared.
    unsafe {
        let _ = rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNET);
    }
}

#[cfg(not(target_os = "linux"))]
fn leave_network() {}

fn extract(library: Option<&Library>, arguments: &Arguments, output: &mut impl Write) -> Result<(), ExtractError> {
    let mut content = Vec::new();
    if let Err(error) = std::io::stdin().lock().read_to_end(&mut content) {
        return Err(match error.kind() {
            std::io::ErrorKind::OutOfMemory => ExtractError::OutOfMemory,
            _ => ExtractError::Busy,
        });
    }
    match library {
        Some(library) => send_all(&library.open(&content)?, arguments, output),
        // It is safe Rust: a fault of it ends in a panic, whose words are nobody's.
        None => {
            let read = || send_all(&builtin::Document::open(&content)?, arguments, output);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).unwrap_or(Err(ExtractError::Damaged))
        }
    }
}

fn send_all(document: &impl Readable, arguments: &Arguments, output: &mut impl Write) -> Result<(), ExtractError> {
    let pages = document.pages();
    if pages > arguments.pages {
        return Err(ExtractError::TooManyPages);
    }
    let send = |tag: Tag, text: &str, output: &mut _| tag.write(text, output).map_err(|_| ExtractError::Busy);
    if let Some(title) = document.title(LONGEST_TITLE / 3) {
        send(Tag::Title, &title, output)?;
    }
    let (mut bytes, mut readable) = (0_usize, 0_u32);
    for number in 0..pages {
        // A page that cannot be read has no text; the others may have.
        let text = document.text(number);
        readable += u32::from(text.is_some());
        let text = text.unwrap_or_default();
        bytes = bytes.saturating_add(text.len());
        if bytes > arguments.bytes {
            return Err(ExtractError::TooLarge);
        }
        send(Tag::Page, &text, output)?;
    }
    if readable == 0 {
        return Err(ExtractError::Damaged);
    }
    Ok(())
}
