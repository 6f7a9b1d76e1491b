//! Requests that wait for the model's threads: one bounded queue for each urgency.
//!
//! Invariants: no background request is taken while a foreground request waits. A request that is not finished goes to
//! the end of its queue, so that one with many texts does not hold up those behind it. Requests in the queues and those
//! that were taken from them count towards the same bound until they are finished.

use std::collections::VecDeque;

use copilotd_actors::ports::Urgency;
use metrics::{counter, gauge};
use parking_lot::{Condvar, Mutex};

/// Bounds of one urgency's requests, waiting and running.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Most requests.
    pub(super) requests: usize,
    /// Most bytes of text, unless a single request has more.
    pub(super) bytes: usize,
}

/// The queues.
#[derive(Debug)]
pub(super) struct Queues<T> {
    bounds: Bounds,
    state: Mutex<State<T>>,
    /// Wakes foreground threads.
    foreground: Condvar,
    /// Wakes background threads.
    background: Condvar,
}

#[derive(Debug)]
struct State<T> {
    foreground: Queue<T>,
    background: Queue<T>,
    closed: bool,
}

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<Entry<T>>,
    /// Requests and bytes that are not finished.
    requests: usize,
    bytes: usize,
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) request: T,
    urgency: Urgency,
    bytes: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            requests: 0,
            bytes: 0,
        }
    }
}

impl<T> State<T> {
    fn queue(&mut self, urgency: Urgency) -> &mut Queue<T> {
        match urgency {
            Urgency::Foreground => &mut self.foreground,
            Urgency::Background => &mut self.background,
        }
    }
}

impl<T> Queues<T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            state: Mutex::new(State {
                foreground: Queue::default(),
                background: Queue::default(),
                closed: false,
            }),
            foreground: Condvar::new(),
            background: Condvar::new(),
        }
    }

    /// Adds a request with this many bytes of text; gives it back if the queue of its urgency is full.
    pub(super) fn push(&self, request: T, urgency: Urgency, bytes: usize) -> Result<(), T> {
        let mut state = self.state.lock();
        let queue = state.queue(urgency);
        if queue.requests >= self.bounds.requests || (queue.requests > 0 && queue.bytes + bytes > self.bounds.bytes) {
            counter!("copilotd_embedding_requests_rejected_total", "urgency" => name(urgency)).increment(1);
            return Err(request);
        }
        queue.requests += 1;
        queue.bytes += bytes;
        queue.waiting.push_back(Entry {
            request,
            urgency,
            bytes,
        });
        report(&state);
        match urgency {
            Urgency::Foreground => self.foreground.notify_one(),
            Urgency::Background => self.background.notify_one(),
        };
        Ok(())
    }

    /// Waits for the next request of an urgency. `None` once the queues are closed.
    pub(super) fn take(&self, urgency: Urgency) -> Option<Entry<T>> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            match urgency {
                Urgency::Foreground => {
                    if let Some(entry) = state.foreground.waiting.pop_front() {
                        if state.foreground.waiting.is_empty() {
                            self.background.notify_all();
                        }
                        report(&state);
                        return Some(entry);
                    }
                    self.foreground.wait(&mut state);
                }
                Urgency::Background => {
                    if state.foreground.waiting.is_empty()
                        && let Some(entry) = state.background.waiting.pop_front()
                    {
                        report(&state);
                        return Some(entry);
                    }
                    self.background.wait(&mut state);
                }
            }
        }
    }

    /// Puts a request that is not finished behind the others of its urgency.
    pub(super) fn put_back(&self, entry: Entry<T>) {
        let mut state = self.state.lock();
        let urgency = entry.urgency;
        state.queue(urgency).waiting.push_back(entry);
        report(&state);
        drop(state);
        match urgency {
            Urgency::Foreground => self.foreground.notify_one(),
            Urgency::Background => self.background.notify_one(),
        };
    }

    /// Ends a request: its place is free.
    pub(super) fn finish(&self, entry: Entry<T>) -> T {
        let mut state = self.state.lock();
        let queue = state.queue(entry.urgency);
        queue.requests -= 1;
        queue.bytes -= entry.bytes;
        entry.request
    }

    /// Ends the threads, and drops what waits.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.foreground.waiting.clear();
        state.background.waiting.clear();
        report(&state);
        drop(state);
        self.foreground.notify_all();
        self.background.notify_all();
    }

    /// Returns the number of requests that no thread has taken.
    #[cfg(test)]
    pub(super) fn waiting(&self, urgency: Urgency) -> usize {
        self.state.lock().queue(urgency).waiting.len()
    }
}

/// Returns the label of an urgency.
fn name(urgency: Urgency) -> &'static str {
    match urgency {
        Urgency::Foreground => "foreground",
        Urgency::Background => "background",
    }
}

/// Publishes how many requests wait.
fn report<T>(state: &State<T>) {
    for (urgency, queue) in [
        (Urgency::Foreground, &state.foreground),
        (Urgency::Background, &state.background),
    ] {
        let waiting = queue.waiting.len() as f64;
        gauge!("copilotd_embedding_requests_waiting", "urgency" => name(urgency)).set(waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues() -> Queues<&'static str> {
        Queues::new(Bounds {
            requests: 3,
            bytes: 100,
        })
    }

    #[test]
    fn each_urgency_is_bounded_alone_in_number_and_bytes() {
        for urgency in [Urgency::Foreground, Urgency::Background] {
            let queues = queues();
            assert_eq!(queues.push("larger than the bound, alone", urgency, 1_000), Ok(()));
            assert_eq!(queues.push("second", urgency, 1), Err("second"));
            queues.finish(queues.take(urgency).unwrap());
            for (request, bytes, expected) in [
                ("a", 60, Ok(())),
                ("b", 50, Err("b")),
                ("c", 40, Ok(())),
                ("d", 0, Ok(())),
                ("e", 0, Err("e")),
            ] {
                assert_eq!(queues.push(request, urgency, bytes), expected);
            }
            let other = match urgency {
                Urgency::Foreground => Urgency::Background,
                Urgency::Background => Urgency::Foreground,
            };
            assert_eq!(queues.push("other", other, 100), Ok(()));
        }
    }

    #[test]
    fn what_was_taken_counts_until_it_is_finished_and_takes_turns() {
        let queues = queues();
        for request in ["a", "b", "c"] {
            queues.push(request, Urgency::Background, 1).unwrap();
        }
        let a = queues.take(Urgency::Background).unwrap();
        assert_eq!(queues.push("d", Urgency::Background, 1), Err("d"), "a is running");
        queues.put_back(a);
        let order = [(); 3].map(|()| queues.finish(queues.take(Urgency::Background).unwrap()));
        assert_eq!(order, ["b", "c", "a"]);
        assert_eq!(queues.push("d", Urgency::Background, 1), Ok(()));
    }

    #[test]
    fn the_background_waits_for_the_foreground() {
        let queues = queues();
        queues.push("background", Urgency::Background, 1).unwrap();
        queues.push("foreground", Urgency::Foreground, 1).unwrap();
        std::thread::scope(|scope| {
            let background = scope.spawn(|| queues.take(Urgency::Background).unwrap().request);
            assert_eq!(queues.waiting(Urgency::Background), 1, "it is not taken");
            let foreground = queues.take(Urgency::Foreground).unwrap();
            assert_eq!(background.join().unwrap(), "background", "none waits: it is running");
            assert_eq!(queues.finish(foreground), "foreground");
        });
    }

    #[test]
    fn closed_queues_end_all_threads() {
        let queues = queues();
        queues.push("dropped", Urgency::Foreground, 1).unwrap();
        std::thread::scope(|scope| {
            let background = scope.spawn(|| queues.take(Urgency::Background).is_none());
            queues.close();
            assert!(background.join().unwrap());
            assert!(queues.take(Urgency::Foreground).is_none());
        });
    }
}
