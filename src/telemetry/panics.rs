//! Says where the process panicked, and keeps what it panicked with to itself where that may be content.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};

/// Replaces the hook that prints every panic's message.
pub fn log_without_content() {
    panic::set_hook(Box::new(log));
}

fn log(info: &PanicHookInfo<'_>) {
    // A literal was written by a programmer; a formatted message may quote a prompt (slicing a string does).
    let message = info.payload().downcast_ref::<&'static str>().copied();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let thread = std::thread::current();
    tracing::error!(
        location = info.location().map(tracing::field::display),
        thread = thread.name(),
        reason = message.unwrap_or("withheld, as it may hold content"),
        backtrace,
        "a panic"
    );
}
