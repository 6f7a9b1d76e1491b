//! Reads server-sent events off a body, one at a time, from pieces that may end anywhere.
//!
//! Nothing here knows what the data means. Bytes stay bytes until a whole event is there, so a character that was
//! split over two pieces is never looked at by half.

use bytes::{Buf, Bytes};

/// Longest line and longest data of one event.
pub const MAX_EVENT: usize = 1024 * 1024;
/// What an idle buffer may keep; a stream lives for minutes and there are thousands of them.
const KEEP: usize = 2 * 1024;

/// A line or an event is longer than [`MAX_EVENT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// The reader's memory between two pieces.
#[derive(Debug, Default)]
pub struct SseReader {
    /// Beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// Data of the event so far.
    data: Vec<u8>,
    has_data: bool,
    complete: bool,
    /// The last line ended with CR: an LF that follows belongs to it.
    after_cr: bool,
    /// The first line may begin with a byte order mark.
    begun: bool,
}

impl SseReader {
    /// Takes bytes off `piece` until an event with data is complete (then [`SseReader::data`] holds it, until the next
    /// call) or `piece` is used up (then it answers false).
    pub fn advance(&mut self, piece: &mut Bytes) -> Result<bool, TooLong> {
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

    /// Returns the event's data.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Completes the event that the end of the body left open. The standard throws it away; some servers leave out
    /// the last empty line, so the caller decides by looking whether the data is whole.
    pub fn finish(&mut self) -> bool {
        if self.complete {
            self.forget();
            return false;
        }
        let line = std::mem::take(&mut self.line);
        let fits = self.take_line(&line).is_ok();
        self.complete = true;
        fits && self.has_data
    }

    fn forget(&mut self) {
        if std::mem::take(&mut self.complete) {
            self.has_data = false;
            self.data = reusable(std::mem::take(&mut self.data));
        }
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + bytes.len() > MAX_EVENT {
            return Err(TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn take_line(&mut self, mut line: &[u8]) -> Result<(), TooLong> {
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            self.complete = self.has_data;
            return Ok(());
        }
        // Comments (an empty field name) and other fields carry nothing for us.
        let Some(value) = line.strip_prefix(b"data") else {
            return Ok(());
        };
        let value = match value.strip_prefix(b":") {
            Some(value) => value.strip_prefix(b" ").unwrap_or(value),
            None if value.is_empty() => value,
            None => return Ok(()),
        };
        if self.data.len() + value.len() >= MAX_EVENT {
            return Err(TooLong);
        }
        if std::mem::replace(&mut self.has_data, true) {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        Ok(())
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
            ("database: x\n\ndata\n\n", vec![""]),
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
        let mut reader = SseReader::default();
        let piece = Bytes::from(vec![b'x'; 64 * 1024]);
        assert!((0..17).any(|_| reader.advance(&mut piece.clone()).is_err()));

        let mut reader = SseReader::default();
        let piece = Bytes::from([b"data: ".as_slice(), &[b'x'; 64 * 1024], b"\n"].concat());
        assert!((0..17).any(|_| reader.advance(&mut piece.clone()).is_err()));
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
