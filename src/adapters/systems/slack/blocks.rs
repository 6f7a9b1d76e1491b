//! Pieces of a message, packed into Block Kit within Slack's limits.

use serde_json::{Value, json};

use super::escape::escape;
use super::markdown::Piece;

/// Longest text of a section.
const SECTION: usize = 3000;
/// Most blocks of a message.
const BLOCKS: usize = 50;
/// Largest total length of a message's blocks. Slack publishes none; it refuses some 13,200 characters of JSON
/// (`msg_blocks_too_long`).
const MESSAGE: usize = 11_000;
/// Space for a comma and for our mark, which one block of each message carries.
const MARK: usize = 80;
/// With more dividers than this they are written as text, or they would make hundreds of messages.
const MAX_DIVIDERS: usize = 40;

/// Wider cells are not cut, but break out of their column.
const MAX_COLUMN: usize = 40;

const FENCE: &str = "```";

/// Blocks of one message.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Packed {
    pub blocks: Vec<Value>,
    /// The same without blocks and fences.
    pub plain: String,
    /// Length of the blocks as JSON.
    length: usize,
}

/// A part of a section, as mrkdwn and as plain text.
struct Part {
    text: String,
    plain: String,
}

/// Packs pieces into blocks and these into as many messages as Slack's limits require. Nothing is left out; a message
/// ends where a section does, which is at the end of a paragraph, line or word.
pub(super) fn pack(pieces: &[Piece]) -> Vec<Packed> {
    let mut packer = Packer::default();
    let rules = pieces.iter().filter(|piece| **piece == Piece::Rule).count();
    for piece in pieces {
        match piece {
            Piece::Rule if rules <= MAX_DIVIDERS => packer.divide(),
            Piece::Rule => packer.take(Part {
                text: "─".repeat(10),
                plain: String::new(),
            }),
            Piece::Text(text) => {
                for text in split(text, SECTION) {
                    let plain = text.clone();
                    packer.take(Part { text, plain });
                }
            }
            Piece::Code(code) => fenced(code).into_iter().for_each(|part| packer.take(part)),
        }
    }
    packer.close();
    packer.messages
}

#[derive(Default)]
struct Packer {
    messages: Vec<Packed>,
    section: String,
    plain: Vec<String>,
}

impl Packer {
    fn take(&mut self, part: Part) {
        if !self.section.is_empty() && units(&self.section) + 2 + units(&part.text) > SECTION {
            self.close();
        }
        if !self.section.is_empty() {
            self.section.push_str("\n\n");
        }
        self.section.push_str(&part.text);
        if !part.plain.is_empty() {
            self.plain.push(part.plain);
        }
    }

    fn divide(&mut self) {
        self.close();
        self.push(json!({ "type": "divider" }), String::new());
    }

    fn close(&mut self) {
        if !self.section.is_empty() {
            let section = mrkdwn(&std::mem::take(&mut self.section));
            let plain = std::mem::take(&mut self.plain).join("\n");
            self.push(section, plain);
        }
    }

    fn push(&mut self, block: Value, plain: String) {
        let length = units(&block.to_string()) + MARK;
        let has_room = |message: &Packed| message.blocks.len() < BLOCKS && message.length + length <= MESSAGE;
        if !self.messages.last().is_some_and(has_room) {
            self.messages.push(Packed::default());
        }
        if let Some(message) = self.messages.last_mut() {
            message.blocks.push(block);
            message.length += length;
            if !message.plain.is_empty() && !plain.is_empty() {
                message.plain.push('\n');
            }
            message.plain.push_str(&plain);
        }
    }
}

/// Formats a table in columns.
pub(super) fn code_table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.trim().chars().count()).max();
        // One long cell must not pad all the others to its own length.
        widest.unwrap_or(0).min(MAX_COLUMN)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut lines = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> = (0..columns)
            .map(|column| {
                let cell = row.get(column).map_or("", |cell| cell.trim());
                let width = widths.get(column).copied().unwrap_or_default();
                format!("{cell:<width$}")
            })
            .collect();
        lines.push(cells.join(" | ").trim_end().to_owned());
        if index == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            lines.push(rules.join("-|-"));
        }
    }
    lines.join("\n")
}

/// Shortens escaped text to Slack's count of characters without cutting an entity or a link in two.
pub(super) fn shorten(text: &str, max: usize) -> String {
    if !units_exceed(text, max) {
        return text.to_owned();
    }
    let first = split(text, max - 1).into_iter().next();
    format!("{}…", first.unwrap_or_default())
}

/// `verbatim` prevents Slack from turning names in the text into mentions and channels by itself.
fn mrkdwn(text: &str) -> Value {
    json!({ "type": "section", "text": { "type": "mrkdwn", "text": text, "verbatim": true }, "expand": true })
}

/// Slack does not define a character; UTF-16 units are the strictest reading.
fn units(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// Returns whether a text has more than `max` units, without scanning all of a long one.
fn units_exceed(text: &str, max: usize) -> bool {
    // A unit is at most three bytes.
    text.len() > 3 * max || units(text) > max
}

/// Splits escaped mrkdwn: at line ends rather than at spaces, at spaces rather than inside of words, never inside of
/// `<…>`, `&…;` or a character of several code points.
fn split(text: &str, max: usize) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while units_exceed(rest, max) {
        let (mut used, mut depth) = (0, false);
        let (mut any, mut space, mut line) = (0, 0, 0);
        // How many units precede the last space and the last line end.
        let (mut before_space, mut before_line) = (0, 0);
        let mut entity = false;
        let mut before = ' ';
        for (at, character) in rest.char_indices() {
            if !depth && !entity {
                if !joins(before, character) {
                    any = at;
                }
                match character {
                    '\n' => (line, before_line) = (at, used),
                    ' ' => (space, before_space) = (at, used),
                    _ => {}
                }
            }
            before = character;
            used += character.len_utf16();
            if used > max {
                break;
            }
            match character {
                '<' => depth = true,
                '>' => depth = false,
                '&' => entity = true,
                ';' => entity = false,
                _ => {}
            }
        }
        // A split in the second half keeps the number of parts small.
        let good = [(line, before_line), (space, before_space)]
            .into_iter()
            .find(|(at, units)| *at > 0 && units * 2 >= max);
        let at = good.map_or(any, |(at, _)| at);
        // Links are far shorter than `max`, so there is always a place to split; if not, progress matters more.
        let at = if at == 0 { boundary(rest, max) } else { at };
        let (part, later) = rest.split_at_checked(at).unwrap_or((rest, ""));
        parts.push(part.trim_end().to_owned());
        rest = later.trim_start_matches(['\n', ' ']);
    }
    if !rest.is_empty() {
        parts.push(rest.to_owned());
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Returns whether two characters are drawn as one, for the sequences that are common in messages.
fn joins(before: char, character: char) -> bool {
    const JOINER: char = '\u{200d}';
    let extends = |c: char| matches!(c, JOINER | '\u{300}'..='\u{36f}' | '\u{fe00}'..='\u{fe0f}' | '\u{20e3}' | '\u{1f3fb}'..='\u{1f3ff}');
    before == JOINER || extends(character)
}

fn boundary(text: &str, max: usize) -> usize {
    let mut used = 0;
    text.char_indices()
        .find(|(_, character)| {
            used += character.len_utf16();
            used > max
        })
        .map_or(text.len(), |(at, _)| at)
}

/// Escapes code and fences each part of it. A fence inside would end the block early; it gets an invisible gap.
fn fenced(code: &str) -> Vec<Part> {
    let code = escape(&code.replace(FENCE, "`\u{200b}`\u{200b}`"));
    split(&code, SECTION - 2 * FENCE.len() - 2)
        .into_iter()
        .map(|plain| Part {
            text: format!("{FENCE}\n{plain}\n{FENCE}"),
            plain,
        })
        .collect()
}
