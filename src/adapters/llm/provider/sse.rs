//! Reads server-sent events from a body, one at a time, from pieces that may end anywhere.
//!
//! Nothing here knows what the data means. Bytes stay bytes until an event is complete, so a character that was split
//! over two pieces is never decoded by half.

use bytes::{Buf, Bytes};

use super::memory::MemoryShare;

/// Longest line and longest data of one event.
pub const MAX_EVENT: usize = 16 * 1024 * 1024;
/// Bytes that an idle buffer may keep; a stream lives for minutes and there are thousands of them.
const KEEP: usize = 2 * 1024;
/// Longest name of an event that is remembered.
const MAX_NAME: usize = 64;

/// Why an event is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SseError {
    /// A line or its data is longer than [`MAX_EVENT`].
    TooLong,
    /// This process is reading too many large events.
    MemoryExhausted,
}

/// The reader's state between two pieces.
#[derive(Debug, Default)]
pub struct SseReader {
    /// Beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// Data of the event so far.
    data: Vec<u8>,
    has_data: bool,
    /// Name of the event so far.
    name: String,
    /// The buffers' share of the process's memory budget.
    memory: MemoryShare,
    complete: bool,
    /// The last line ended with CR: an LF that follows belongs to it.
    after_cr: bool,
    /// Whether a line was read: only the first one may begin with a byte order mark.
    begun: bool,
    /// Whether there was a line that is not valid in an event stream.
    is_foreign: bool,
}

impl SseReader {
    /// Consumes bytes of `piece` until an event with data is complete (then [`SseReader::data`] returns it, until the
    /// next call) or `piece` is used up (then this returns false). An event whose data is empty does not count.
    pub fn advance(&mut self, piece: &mut Bytes) -> Result<bool, SseError> {
        self.forget();
        while !piece.is_empty() {
            if std::mem::take(&mut self.after_cr) && piece[0] == b'\n' {
                piece.advance(1);
                continue;
            }
            let Some(end) = piece.iter().position(|&byte| byte == b'\n' || byte == b'\r') else {
                self.extend_line(piece)?;
                piece.clear();
                break;
            };
            let rest = piece.split_to(end);
            self.after_cr = piece[0] == b'\r';
            piece.advance(1);
            if self.line.is_empty() {
                self.take_line(&rest)?;
            } else {
                self.extend_line(&rest)?;
                let line = std::mem::take(&mut self.line);
                self.take_line(&line)?;
                self.line = reusable(line);
            }
            if self.complete {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Returns the event's name; empty if it has none.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether there was a line that is not valid in an event stream: the body may be an HTML page or a bare
    /// error text.
    pub fn is_foreign(&self) -> bool {
        self.is_foreign
    }

    /// Takes the event's data, and its share of the process's memory budget.
    pub fn take_data(&mut self) -> (Vec<u8>, MemoryShare) {
        (std::mem::take(&mut self.data), std::mem::take(&mut self.memory))
    }

    /// Completes the event that the end of the body left open. The standard discards it; some servers leave out the
    /// last empty line, so the caller decides by checking whether the data is complete.
    pub fn finish(&mut self) -> bool {
        if self.complete {
            self.forget();
            return false;
        }
        let line = std::mem::take(&mut self.line);
        let fits = self.take_line(&line).is_ok();
        self.complete = true;
        fits && !self.data.is_empty()
    }

    fn forget(&mut self) {
        if std::mem::take(&mut self.complete) {
            self.has_data = false;
            self.data = reusable(std::mem::take(&mut self.data));
            self.name.clear();
            self.memory.shrink_to(self.line.len());
        }
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        if self.line.len() + bytes.len() > MAX_EVENT {
            return Err(SseError::TooLong);
        }
        self.reserve(bytes.len())?;
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn reserve(&mut self, more: usize) -> Result<(), SseError> {
        let held = self.line.len() + self.data.len() + more;
        self.memory.hold(held).map_err(|_| SseError::MemoryExhausted)
    }

    fn take_line(&mut self, mut line: &[u8]) -> Result<(), SseError> {
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            // The standard: without data nothing is dispatched, and the name is forgotten.
            self.complete = !self.data.is_empty();
            if !self.complete {
                self.has_data = false;
                self.name.clear();
            }
            return Ok(());
        }
        if let Some(name) = field(line, b"event") {
            let name = String::from_utf8_lossy(name);
            self.name.clear();
            self.name.push_str(&name[..name.floor_char_boundary(MAX_NAME)]);
            return Ok(());
        }
        // Comments (an empty field name) and other fields carry nothing for us.
        let Some(value) = field(line, b"data") else {
            let known = [b"".as_slice(), b"id", b"retry"];
            self.is_foreign |= known.iter().all(|name| field(line, name).is_none());
            return Ok(());
        };
        if self.data.len() + value.len() >= MAX_EVENT {
            return Err(SseError::TooLong);
        }
        self.reserve(value.len())?;
        if std::mem::replace(&mut self.has_data, true) {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        Ok(())
    }
}

/// Returns the value of a line's field, if it is the one called `name`.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name)?;
    match value.strip_prefix(b":") {
        Some(value) => Some(value.strip_prefix(b" ").unwrap_or(value)),
        None => value.is_empty().then_some(value),
    }
}

fn reusable(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer.shrink_to(KEEP);
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `stream` in pieces of `step` bytes.
    fn read(stream: &[u8], step: usize) -> Vec<String> {
        let mut reader = SseReader::default();
        let mut events = Vec::new();
        for piece in stream.chunks(step) {
            let mut piece = Bytes::copy_from_slice(piece);
            while reader.advance(&mut piece).unwrap() {
                events.push(String::from_utf8(reader.data().to_vec()).unwrap());
            }
        }
        if reader.finish() {
            events.push(format!("open: {}", String::from_utf8(reader.data().to_vec()).unwrap()));
        }
        events
    }

    #[test]
    fn events_are_the_same_however_the_bytes_are_split() {
        for (stream, expected) in [
            ("data: a\n\ndata: b\n\n", vec!["a", "b"]),
            ("data:a\r\n\r\ndata: b\r\rdata: c\n\n", vec!["a", "b", "c"]),
            (": ping\n\n: ping\n\ndata: käse 🧀\n\n", vec!["käse 🧀"]),
            ("event: x\nid: 1\ndata: a\ndata: b\nretry: 5\n\n", vec!["a\nb"]),
            ("\u{feff}data: a\n\n", vec!["a"]),
            ("database: x\n\ndata\n\n", vec![]),
            ("data:\n\ndata: \n\ndata: a\n\n", vec!["a"]),
            ("event: ping\ndata:\n\ndata: a\n\ndata:", vec!["a"]),
            ("data:\ndata: a\n\n", vec!["\na"]),
            ("data: a\n\nevent: x\n\n", vec!["a"]),
            ("data: a\n\ndata: half", vec!["a", "open: half"]),
            ("data: a\n\ndata: half\n", vec!["a", "open: half"]),
            ("data: a\n\n", vec!["a"]),
            ("\n\n\n", vec![]),
        ] {
            for step in 1..=stream.len() {
                assert_eq!(read(stream.as_bytes(), step), expected, "{stream:?} by {step}");
            }
        }
    }

    #[test]
    fn a_line_or_an_event_without_end_is_refused() {
        let too_long = Err(SseError::TooLong);
        let mut reader = SseReader::default();
        let piece = Bytes::from(vec![b'x'; 64 * 1024]);
        assert!((0..257).any(|_| reader.advance(&mut piece.clone()) == too_long));

        let mut reader = SseReader::default();
        let piece = Bytes::from([b"data: ".as_slice(), &[b'x'; 64 * 1024], b"\n"].concat());
        assert!((0..257).any(|_| reader.advance(&mut piece.clone()) == too_long));
    }

    #[test]
    fn events_have_their_own_names() {
        let mut reader = SseReader::default();
        let mut piece = Bytes::from_static(b"event: error\ndata: a\n\ndata: b\n\nevent: x\n\ndata: c\n\n");
        let mut names = Vec::new();
        while reader.advance(&mut piece).unwrap() {
            names.push(reader.name().to_owned());
        }
        assert_eq!(names, ["error", "", ""]);
    }

    #[test]
    fn a_large_event_leaves_no_large_buffer() {
        let mut reader = SseReader::default();
        let mut piece = Bytes::from([b"data: ".as_slice(), &[b'x'; 512 * 1024], b"\n\n"].concat());
        assert!(reader.advance(&mut piece).unwrap());
        assert!(!reader.advance(&mut Bytes::new()).unwrap());
        assert!(reader.data.capacity() <= KEEP && reader.line.capacity() <= KEEP);
    }
}
