//! Logs where the process panicked, and withholds the panic message where it may contain user content.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};

/// Replaces the default hook, which prints every panic's message.
pub fn log_without_content() {
    panic::set_hook(Box::new(log));
}

fn log(info: &PanicHookInfo<'_>) {
    // A literal is safe; a formatted message may quote a prompt (a string slicing panic does).
    let message = info.payload().downcast_ref::<&'static str>().copied();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let thread = std::thread::current();
    tracing::error!(
        location = info.location().map(tracing::field::display),
        thread = thread.name(),
        reason = message.unwrap_or("withheld, as it may contain user content"),
        backtrace,
        "thread panicked"
    );
}
