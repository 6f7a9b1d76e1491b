//! Pieces of a message, packed into Block Kit within Slack's limits.

use serde_json::{Value, json};

use super::escape::escape;
use super::markdown::Piece;

/// Longest text of a section.
const SECTION: usize = 3000;
/// Most blocks of a message.
const BLOCKS: usize = 50;

/// Wider cells are not cut, but stand out of their column.
const MAX_COLUMN: usize = 40;

const FENCE: &str = "```";

/// Packs pieces into blocks; what is beyond Slack's limit is left out, and the last block says so.
pub(super) fn pack(pieces: &[Piece]) -> Vec<Value> {
    let mut blocks = Vec::new();
    let mut section = String::new();
    for piece in pieces {
        if blocks.len() > BLOCKS {
            break;
        }
        let parts = match piece {
            Piece::Rule => {
                close(&mut blocks, &mut section);
                blocks.push(json!({ "type": "divider" }));
                continue;
            }
            Piece::Text(text) => split(text, SECTION),
            Piece::Code(code) => fenced(code),
        };
        for part in parts {
            if !section.is_empty() && units(&section) + 2 + units(&part) > SECTION {
                close(&mut blocks, &mut section);
            }
            if !section.is_empty() {
                section.push_str("\n\n");
            }
            section.push_str(&part);
        }
    }
    close(&mut blocks, &mut section);
    if blocks.len() > BLOCKS {
        blocks.truncate(BLOCKS - 1);
        blocks.push(mrkdwn("_… the rest was left out: the message is too long for Slack._"));
    }
    blocks
}

/// Sets a table in columns.
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
                format!("{cell:<width$}", width = widths[column])
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

fn close(blocks: &mut Vec<Value>, section: &mut String) {
    if !section.is_empty() {
        blocks.push(mrkdwn(&std::mem::take(section)));
    }
}

/// `verbatim` keeps Slack from turning names in the text into mentions and channels by itself.
fn mrkdwn(text: &str) -> Value {
    json!({ "type": "section", "text": { "type": "mrkdwn", "text": text, "verbatim": true }, "expand": true })
}

/// Slack does not say what a character is; UTF-16 units are the strictest reading.
fn units(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// Tells whether a text has more than `max` units, without looking at all of a long one.
fn units_exceed(text: &str, max: usize) -> bool {
    // A unit is at most three bytes.
    text.len() > 3 * max || units(text) > max
}

/// Splits escaped mrkdwn: at line ends rather than at spaces, at spaces rather than inside of words, never inside of
/// `<…>` or `&…;`.
fn split(text: &str, max: usize) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = text;
    // More than a message can hold is not looked at: it is left out anyway.
    while units_exceed(rest, max) && parts.len() <= BLOCKS {
        let (mut used, mut depth) = (0, false);
        let (mut any, mut space, mut line) = (0, 0, 0);
        let mut entity = false;
        for (at, character) in rest.char_indices() {
            if !depth && !entity {
                any = at;
                match character {
                    '\n' => line = at,
                    ' ' => space = at,
                    _ => {}
                }
            }
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
        // A split at half the room or later keeps the number of parts small.
        let good = |at: usize| at > 0 && units(&rest[..at]) * 2 >= max;
        let at = [line, space].into_iter().find(|at| good(*at)).unwrap_or(any);
        // Links are bounded far below `max`, so there is always a place; if not, progress matters more.
        let at = if at == 0 { boundary(rest, max) } else { at };
        parts.push(rest[..at].trim_end().to_owned());
        rest = rest[at..].trim_start_matches(['\n', ' ']);
    }
    if !rest.is_empty() && parts.len() <= BLOCKS {
        parts.push(rest.to_owned());
    }
    parts.retain(|part| !part.is_empty());
    parts
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
fn fenced(code: &str) -> Vec<String> {
    let code = escape(&code.replace(FENCE, "`\u{200b}`\u{200b}`"));
    split(&code, SECTION - 2 * FENCE.len() - 2)
        .into_iter()
        .map(|part| format!("{FENCE}\n{part}\n{FENCE}"))
        .collect()
}
