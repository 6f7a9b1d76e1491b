//! What one stream reader received, checked against API.md as it arrives.

use serde_json::Value;

/// A durable event.
#[derive(Debug, Clone, PartialEq)]
pub struct Durable {
    pub seq: u64,
    pub name: String,
    pub data: Value,
}

impl Durable {
    pub fn turn(&self) -> Option<&str> {
        self.data["turn_id"].as_str()
    }

    /// Whether its turn ends with it.
    pub fn is_terminal(&self) -> bool {
        ["turn.completed", "turn.failed", "turn.cancelled"].contains(&self.name.as_str())
    }
}

/// Everything a reader received, across all its connections.
#[derive(Debug, Default)]
pub struct Transcript {
    pub durable: Vec<Durable>,
    /// Violations of the protocol.
    pub faults: Vec<String>,
    /// The last event's id: where the reader resumes.
    pub position: Option<String>,
    /// Number of streams it opened: the first one, and one for each reconnect.
    pub connections: usize,
    /// Number of text deltas.
    pub deltas: usize,
    /// Whether it reconnected and the stream no longer existed; allowed only for erased conversations.
    pub gone: bool,
    /// The turn whose message is open, and its text so far.
    open: Option<(String, String)>,
}

impl Transcript {
    /// Takes the next event.
    pub fn take(&mut self, id: &str, name: &str, data: &str) {
        if let Err(fault) = self.check(id, name, data) {
            let after = self.position.as_deref().unwrap_or("the beginning");
            self.faults
                .push(format!("{name} {id} after {after}: {fault}; data {data}"));
        }
        self.position = Some(id.to_owned());
    }

    fn check(&mut self, id: &str, name: &str, data: &str) -> Result<(), String> {
        let data: Value = serde_json::from_str(data).map_err(|error| error.to_string())?;
        let (seq, offset) = match id.split_once('.') {
            Some((seq, offset)) => (seq, Some(offset.parse::<usize>().map_err(|error| error.to_string())?)),
            None => (id, None),
        };
        let seq: u64 = seq.parse().map_err(|_| "its id is no position".to_owned())?;
        let last = self.durable.last().map_or(0, |event| event.seq);
        if data["seq"] != seq {
            return Err("data.seq is not the id's".to_owned());
        }
        if name == "message.delta" {
            self.deltas += 1;
            self.delta(&data)?;
            // Before the first durable event a reader's position is where it began.
            if !self.durable.is_empty() && seq != last {
                return Err(format!("the last durable event was {last}"));
            }
        } else {
            if seq <= last {
                return Err(format!("came after {last}"));
            }
            let event = Durable {
                seq,
                name: name.to_owned(),
                data,
            };
            let closed = self.close(&event);
            self.durable.push(event);
            closed?;
        }
        let length = self
            .open
            .as_ref()
            .map(|(_, text)| text.len())
            .filter(|length| *length > 0);
        if offset == length {
            Ok(())
        } else {
            Err(format!("its offset is {offset:?}, the open text has {length:?} bytes"))
        }
    }

    fn delta(&mut self, data: &Value) -> Result<(), String> {
        let (turn, text) = (data["turn_id"].as_str().unwrap_or_default(), data["text"].as_str());
        let text = text.filter(|text| !text.is_empty()).ok_or("a delta without text")?;
        let (open, so_far) = self.open.get_or_insert_with(|| (turn.to_owned(), String::new()));
        if open != turn {
            return Err(format!("the message of {open} is open"));
        }
        so_far.push_str(text);
        Ok(())
    }

    /// Checks what the event says about the open text, and closes it where needed.
    fn close(&mut self, event: &Durable) -> Result<(), String> {
        let turn = event.turn().unwrap_or_default();
        let ours = self.open.as_ref().is_none_or(|(open, _)| open == turn);
        let text = self.open.as_ref().filter(|_| ours).map_or("", |(_, text)| text);
        let result = match event.name.as_str() {
            "message.completed" if event.data["text"] != text => Err(format!("the deltas say {text:?}")),
            name if (name == "turn.started" || event.is_terminal()) && ours && !text.is_empty() => {
                Err(format!("a text was never closed: {text:?}"))
            }
            _ => Ok(()),
        };
        let closes = matches!(
            event.name.as_str(),
            "message.completed" | "message.reset" | "turn.started"
        );
        if ours && (closes || event.is_terminal()) {
            self.open = None;
        }
        result
    }

    /// Whether this turn has ended.
    pub fn ended(&self, turn: &str) -> bool {
        self.durable
            .iter()
            .any(|event| event.is_terminal() && event.turn() == Some(turn))
    }

    /// Returns how often it reconnected.
    pub fn resumes(&self) -> usize {
        self.connections.saturating_sub(1)
    }

    pub fn has(&self, name: &str) -> bool {
        self.durable.iter().any(|event| event.name == name)
    }

    /// Returns the length of the open text, in bytes.
    pub fn open_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |(_, text)| text.len())
    }
}

/// Splits a stream of bytes into events: id, name, data.
#[derive(Debug, Default)]
pub struct Frames(Vec<u8>);

impl Frames {
    /// Adds bytes and returns every complete event.
    pub fn push(&mut self, bytes: &[u8], mut event: impl FnMut(&str, &str, &str)) {
        self.0.extend_from_slice(bytes);
        while let Some(end) = self.0.windows(2).position(|pair| pair == b"\n\n") {
            let frame: Vec<u8> = self.0.drain(..end + 2).collect();
            let frame = String::from_utf8(frame).expect("the stream is UTF-8");
            let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
            if let (Some(id), Some(name), Some(data)) = (field("id: "), field("event: "), field("data: ")) {
                event(id, name, data);
            }
        }
    }
}
