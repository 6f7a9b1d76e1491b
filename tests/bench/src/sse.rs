//! Takes server-sent events apart.

/// Collects bytes and yields the `data` of each event with its name.
#[derive(Debug, Default)]
pub struct Events {
    /// Bytes that are not taken apart yet; filled by the connection.
    pub bytes: Vec<u8>,
}

impl Events {
    /// Calls `take(name, data)` for each whole event and keeps the rest. An event without a name has an empty one.
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
