//! Parses server-sent events.

/// Collects bytes and yields the name and `data` of each event.
#[derive(Debug, Default)]
pub struct Events {
    /// Bytes not parsed yet; filled by the connection.
    pub bytes: Vec<u8>,
}

impl Events {
    /// Calls `take(name, data)` for each complete event and keeps the rest. The name of an unnamed event is empty.
    pub fn drain(&mut self, mut take: impl FnMut(&str, &str)) {
        let mut from = 0;
        while let Some(end) = self.bytes[from..].windows(2).position(|pair| pair == b"\n\n") {
            let (mut name, mut data) = ("", "");
            for line in self.bytes[from..from + end].split(|byte| *byte == b'\n') {
                let line = std::str::from_utf8(line).unwrap_or_default();
                match line.split_once(": ") {
                    Some(("event", value)) => name = value,
                    Some(("data", value)) => data = value,
                    _ => {}
                }
            }
            if !data.is_empty() {
                take(name, data);
            }
            from += end + 2;
        }
        self.bytes.drain(..from);
    }
}
