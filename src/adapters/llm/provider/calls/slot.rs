//! One call while its pieces arrive.

use copilotd_actors::domain::content::MAX_ARGUMENTS;
use copilotd_actors::domain::json::StringScan;
use serde::de::IgnoredAny;
use serde_json::Value;
use uuid::Uuid;

use super::{Arguments, Call, CallPiece, NAMELESS, Offers, PendingSurrogate, TWICE, Writer};

/// Longest name, all its pieces together.
const MAX_NAME: usize = 1024;
/// Most bytes of a call that are held back from a client because its name is unknown.
const MAX_HELD_BACK: usize = 1024 * 1024;
/// Replaces arguments that are too long. It is not JSON, so the tool is not run and the model gets an error.
const TOO_LONG: &str = "arguments too long";

/// A call.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) index: Option<u64>,
    /// The first one is the call's; servers that invent more add to them.
    ids: Vec<String>,
    name: String,
    /// The name came after arguments.
    is_named_late: bool,
    arguments: String,
    scan: Scan,
    is_too_long: bool,
    /// An empty object came: all there is, or the beginning of what follows as a text.
    has_empty_object: bool,
    /// The arguments came as an object.
    is_object: bool,
    has_two_sets: bool,
    /// Half a character at the end of the last piece.
    pub(super) seam: PendingSurrogate,
    sent: SentState,
}

/// What the client has of it.
#[derive(Debug, Default)]
struct SentState {
    has_begun: bool,
    name: usize,
    /// Arguments that it does not have yet.
    due: String,
}

/// How far arguments that come in pieces are parsed.
#[derive(Debug, Default)]
struct Scan {
    depth: u32,
    strings: StringScan,
    has_begun: bool,
    is_closed: bool,
}

impl Scan {
    fn read(&mut self, json: &str) {
        for byte in json.bytes() {
            if !self.strings.is_outside(byte) {
                continue;
            }
            match byte {
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.is_closed |= self.depth == 0;
                }
                _ => {}
            }
            self.has_begun |= !byte.is_ascii_whitespace();
        }
    }
}

impl Slot {
    pub(super) fn has_id(&self, id: &str) -> bool {
        self.ids.iter().any(|known| known == id)
    }

    pub(super) fn has_any_id(&self) -> bool {
        !self.ids.is_empty()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_named(&self) -> bool {
        !self.name.is_empty()
    }

    /// Arguments were begun and are not closed.
    pub(super) fn is_open(&self) -> bool {
        self.scan.has_begun && !self.scan.is_closed
    }

    /// Its arguments are not JSON.
    pub(super) fn is_broken(&self) -> bool {
        let is_read = self.scan.has_begun && !self.is_too_long;
        is_read && serde_json::from_str::<IgnoredAny>(&self.arguments).is_err()
    }

    /// It has a name, and no arguments came at all.
    pub(super) fn has_no_arguments(&self) -> bool {
        self.is_named() && !self.scan.has_begun && !self.has_empty_object
    }

    pub(super) fn is_named_late(&self) -> bool {
        self.is_named_late
    }

    /// More of it may come: its name, or arguments.
    pub(super) fn waits(&self) -> bool {
        !self.is_named() || !(self.scan.is_closed || self.has_empty_object)
    }

    /// Its arguments came as a text and were closed: what begins again belongs to another call.
    pub(super) fn has_all(&self) -> bool {
        self.scan.is_closed && !self.is_object
    }

    /// Its arguments are an object that was closed.
    pub(super) fn is_closed(&self) -> bool {
        let has_all = self.scan.is_closed && self.scan.depth == 0 && !self.scan.strings.in_string();
        has_all || self.has_empty_object || (!self.is_named() && !self.scan.has_begun)
    }

    /// Returns whether `piece`, which has the id or index of this call, begins another one by its name.
    pub(super) fn begins_anew(&self, piece: &CallPiece, offers: Offers<'_>) -> bool {
        let name = piece.name.as_str();
        if name.is_empty() {
            return false;
        }
        if !self.is_named() {
            // It has arguments of its own, and the other call's are complete.
            return self.scan.is_closed && !piece.arguments.text().trim().is_empty();
        }
        let is_tool = |name: &str| offers(name) == Some(true);
        if name == self.name {
            let text = piece.arguments.text().trim();
            let is_repeated = text == self.arguments.trim() || is_same(text, &self.arguments);
            return self.scan.is_closed && !text.is_empty() && !is_repeated;
        }
        if self.scan.is_closed || self.has_empty_object {
            return true;
        }
        if self.is_open() {
            return is_tool(name);
        }
        let joined = format!("{}{name}", self.name);
        !name.starts_with(&self.name) && is_tool(name) && is_tool(&self.name) && !is_tool(&joined)
    }

    /// Adds a piece; if `tells`, it is also recorded for the client.
    pub(super) fn take(&mut self, piece: CallPiece, tells: bool) -> Result<(), &'static str> {
        if self.index.is_none() {
            self.index = piece.index;
        }
        if !piece.id.is_empty() && !self.has_id(&piece.id) && self.ids.len() < 2 {
            self.ids.push(piece.id);
        } else if !piece.id.is_empty() && !self.has_id(&piece.id) {
            self.ids[1] = piece.id;
        }
        self.rename(&piece.name);
        match piece.arguments {
            Arguments::None => {}
            Arguments::Value(json)
                if json
                    .bytes()
                    .all(|b| b.is_ascii_whitespace() || matches!(b, b'{' | b'}')) =>
            {
                self.has_empty_object = true;
            }
            Arguments::Value(json) if self.arguments.is_empty() => {
                self.is_object = true;
                self.add(&json, tells)?;
            }
            Arguments::Value(json) => self.has_two_sets |= !is_same(&json, &self.arguments),
            Arguments::Text(text) if text.is_empty() => {}
            // Some servers send the whole call again at the end.
            Arguments::Text(text) if self.scan.is_closed && text.trim() == self.arguments.trim() => {}
            Arguments::Text(text) if self.is_object => {
                self.has_two_sets |= !text.trim().is_empty() && !is_same(&text, &self.arguments);
            }
            Arguments::Text(text) => self.add(&text, tells)?,
        }
        Ok(())
    }

    /// A name may come in pieces, be repeated, or grow.
    fn rename(&mut self, piece: &str) {
        if piece.is_empty() || self.name.len() + piece.len() > MAX_NAME || piece == self.name {
            return;
        }
        self.is_named_late |= !self.is_named() && self.scan.has_begun;
        if piece.starts_with(&self.name) {
            piece.clone_into(&mut self.name);
        } else if !self.scan.has_begun {
            self.name.push_str(piece);
        }
    }

    /// Nothing more of it will come: no arguments become an empty object.
    pub(super) fn close(&mut self) {
        self.has_empty_object |= !self.scan.has_begun;
    }

    fn add(&mut self, text: &str, tells: bool) -> Result<(), &'static str> {
        self.scan.read(text);
        if tells {
            self.sent.due.push_str(text);
            if self.sent.due.len() > MAX_HELD_BACK && !self.sent.has_begun {
                return Err(NAMELESS);
            }
        }
        self.is_too_long |= self.arguments.len() + text.len() > MAX_ARGUMENTS;
        if !self.is_too_long {
            self.arguments.push_str(text);
        }
        Ok(())
    }

    /// Returns whether `piece`, which was just added, is written as clients expect it.
    pub(super) fn reads_well(&self, piece: &CallPiece) -> bool {
        let is_text = !matches!(piece.arguments, Arguments::Value(_)) && !self.is_object && !self.has_two_sets;
        let has_all = self.sent.due == piece.arguments.text();
        if !is_text || !has_all {
            return false;
        }
        if self.sent.has_begun {
            // A client concatenates texts: a repeated id or name would be there twice.
            piece.id.is_empty() && (piece.name.is_empty() || self.name[self.sent.name..] == piece.name)
        } else {
            !piece.id.is_empty() && piece.name == self.name && self.is_named()
        }
    }

    pub(super) fn passed(&mut self) {
        self.sent.due.clear();
        self.sent.has_begun = true;
        self.sent.name = self.name.len();
    }

    /// The answer is complete: a call without arguments has none; the client then gets an empty object if the server
    /// sent one, or if `fills`.
    pub(super) fn settle(&mut self, fills: bool) {
        let has_none = self.arguments.is_empty() && !self.is_too_long;
        if has_none && self.is_named() && (self.has_empty_object || fills) {
            "{}".clone_into(&mut self.sent.due);
        }
    }

    pub(super) fn tell(&mut self, number: usize) -> Option<String> {
        if !self.is_named() {
            return None;
        }
        let name = &self.name[self.sent.name..];
        let due = std::mem::take(&mut self.sent.due);
        let has_begun = std::mem::replace(&mut self.sent.has_begun, true);
        if has_begun && name.is_empty() && due.is_empty() {
            return None;
        }
        let mut function = Writer::default();
        if !name.is_empty() {
            function.text("name", name);
        }
        function.text("arguments", &due);
        self.sent.name = self.name.len();
        let mut call = Writer::default();
        call.raw("index", &number.to_string());
        if !has_begun {
            if self.ids.is_empty() {
                self.ids.push(format!("call_{}", Uuid::now_v7().simple()));
            }
            call.text("id", &self.ids[0]);
            call.text("type", "function");
        }
        call.raw("function", &function.finish());
        Some(call.finish())
    }

    pub(super) fn whole(&self, number: usize) -> Result<Option<Call>, &'static str> {
        if self.has_two_sets {
            return Err(TWICE);
        }
        if !self.is_named() {
            return if self.scan.has_begun { Err(NAMELESS) } else { Ok(None) };
        }
        let arguments = match self.arguments.as_str() {
            _ if self.is_too_long => TOO_LONG,
            "" if self.has_empty_object => "{}",
            arguments => arguments,
        };
        Ok(Some(Call {
            number,
            name: self.name.clone(),
            arguments: arguments.to_owned(),
        }))
    }
}

/// Returns whether two texts are the same JSON.
fn is_same(one: &str, other: &str) -> bool {
    let read = |json: &str| serde_json::from_str::<Value>(json).ok();
    read(one).is_some_and(|one| Some(one) == read(other))
}
