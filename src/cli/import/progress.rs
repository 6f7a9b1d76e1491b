//! Shows how far an import has come: a bar on a terminal, else a line now and then. Both go to standard error.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep_until};

use super::tally::Tally;
use crate::cli::print_stderr;

/// Interval between two plain lines.
const INTERVAL: Duration = Duration::from_secs(10);
const BAR: &str = "{bar:30} {percent:>3}%  {msg}";
const SPINNER: &str = "{spinner} {msg}";

/// The progress of an import.
pub(super) struct Progress {
    /// None if standard error is no terminal.
    bar: Option<ProgressBar>,
    next_line: Instant,
}

impl Progress {
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::with_template(SPINNER).expect("the template is constant"));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self {
            bar,
            next_line: Instant::now() + INTERVAL,
        }
    }

    /// Sets the total, which was not known so far.
    pub fn expect(&self, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_style(ProgressStyle::with_template(BAR).expect("the template is constant"));
        }
    }

    /// Starts again, with another total.
    pub fn restart(&self, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(0);
        }
        self.expect(total);
    }

    pub fn advance(&self, by: u64, tally: &Tally) {
        if let Some(bar) = &self.bar {
            bar.inc(by);
            bar.set_message(tally.line(false));
        }
    }

    /// Prints a line above the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => print_stderr(line),
        }
    }

    /// Completes when the next plain line is due; never on a terminal.
    pub fn tick(&self) -> impl Future<Output = ()> + use<> {
        let due = self.bar.is_none().then_some(self.next_line);
        async move {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Prints the numbers, unless there is a bar.
    pub fn plain_line(&mut self, tally: &Tally) {
        self.next_line = Instant::now() + INTERVAL;
        if self.bar.is_none() {
            print_stderr(&tally.line(false));
        }
    }

    /// Prints how many jobs are waited for, unless there is a bar or a line was printed a moment ago.
    pub fn plain_line_of_wait(&mut self, jobs: usize) {
        if self.bar.is_none() && Instant::now() >= self.next_line {
            self.next_line = Instant::now() + INTERVAL;
            print_stderr(&format!("waiting until {jobs} documents are searchable"));
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
