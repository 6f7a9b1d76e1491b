//! Markdown as models write it, parsed into pieces that Slack's mrkdwn can show.
//!
//! Invariant: no text of the model reaches the output with a bare `<`, `>` or `&`, except inside `<url|label>` with an
//! http, https or mailto address. So nothing it writes can become `<!channel>`, `<@U…>` or `<!subteam^…>`.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use super::blocks::code_table;
use super::escape::{escape, safe_url};

/// Thousands of nested lists fit in one short line; their indents must not multiply the message.
const MAX_INDENT: usize = 8;
/// A link may not be split, so its label is limited.
const MAX_LABEL: usize = 500;

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Lines of mrkdwn.
    Text(String),
    /// Preformatted, still unescaped.
    Code(String),
    /// A divider.
    Rule,
}

/// Parses a message into pieces.
pub(super) fn pieces(markdown: &str) -> Vec<Piece> {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut writer = Writer::default();
    for event in Parser::new_ext(markdown, options) {
        writer.take(event);
    }
    writer.end_block();
    writer.pieces
}

#[derive(Default)]
struct Writer {
    pieces: Vec<Piece>,
    /// Lines of the block that is being written.
    lines: Vec<String>,
    /// The line that is being written.
    line: String,
    /// Open lists; the next number of a numbered one.
    lists: Vec<Option<u64>>,
    bullet: Option<String>,
    quotes: usize,
    bold: usize,
    heading: bool,
    code: Option<String>,
    /// Address and the label's beginning in `line`.
    link: Option<(String, usize)>,
    table: Option<Vec<Vec<String>>>,
}

impl Writer {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => self.text(&text),
            Event::Code(code) if self.table.is_some() => self.cell(&code),
            // A backtick cannot be shown inside of backticks.
            Event::Code(code) => self.line.push_str(&format!("`{}`", escape(&code.replace('`', "'")))),
            Event::Html(html) | Event::InlineHtml(html) => self.text(&html),
            Event::SoftBreak | Event::HardBreak if self.table.is_some() => self.cell(" "),
            Event::SoftBreak | Event::HardBreak => self.line.push('\n'),
            Event::Rule => {
                self.end_block();
                self.pieces.push(Piece::Rule);
            }
            Event::TaskListMarker(done) => self.line.push_str(if done { "☑ " } else { "☐ " }),
            Event::FootnoteReference(text) | Event::InlineMath(text) | Event::DisplayMath(text) => self.text(&text),
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Heading { .. } => {
                self.heading = true;
                self.line.push('*');
            }
            Tag::BlockQuote(_) => {
                self.flush();
                self.quotes += 1;
            }
            Tag::CodeBlock(kind) => {
                self.flush();
                self.end_block();
                // Slack ignores the language.
                let (CodeBlockKind::Fenced(_) | CodeBlockKind::Indented) = kind;
                self.code = Some(String::new());
            }
            Tag::List(first) => {
                self.flush();
                self.lists.push(first);
            }
            Tag::Item => {
                self.bullet = Some(match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{}. ", *number - 1)
                    }
                    _ => "• ".to_owned(),
                });
            }
            Tag::Emphasis => self.mark("_"),
            Tag::Strong => {
                self.bold += 1;
                if self.bold == 1 && !self.heading {
                    self.mark("*");
                }
            }
            Tag::Strikethrough => self.mark("~"),
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } if self.link.is_none() && self.table.is_none() => {
                self.link = Some((dest_url.into_string(), self.line.len()));
            }
            Tag::Table(_) => {
                self.flush();
                self.end_block();
                self.table = Some(Vec::new());
            }
            Tag::TableHead | Tag::TableRow => {
                if let Some(rows) = &mut self.table {
                    rows.push(Vec::new());
                }
            }
            Tag::TableCell => {
                if let Some(row) = self.table.as_mut().and_then(|rows| rows.last_mut()) {
                    row.push(String::new());
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(_) => {
                self.heading = false;
                self.line.push('*');
                self.paragraph();
            }
            TagEnd::Paragraph | TagEnd::HtmlBlock => self.paragraph(),
            TagEnd::Item => {
                self.flush();
                self.bullet = None;
            }
            TagEnd::List(_) => {
                self.lists.pop();
                self.end_block_outside();
            }
            TagEnd::BlockQuote(_) => {
                self.flush();
                self.quotes = self.quotes.saturating_sub(1);
                self.end_block_outside();
            }
            TagEnd::CodeBlock => {
                let code = self.code.take().unwrap_or_default();
                self.pieces.push(Piece::Code(code.trim_end_matches('\n').to_owned()));
            }
            TagEnd::Emphasis => self.mark("_"),
            TagEnd::Strong => {
                self.bold = self.bold.saturating_sub(1);
                if self.bold == 0 && !self.heading {
                    self.mark("*");
                }
            }
            TagEnd::Strikethrough => self.mark("~"),
            TagEnd::Link | TagEnd::Image => self.end_link(),
            TagEnd::Table => {
                let rows = self.table.take().unwrap_or_default();
                self.pieces.push(Piece::Code(code_table(&rows)));
            }
            _ => {}
        }
    }

    fn text(&mut self, text: &str) {
        if let Some(code) = &mut self.code {
            code.push_str(text);
        } else if self.table.is_some() {
            self.cell(text);
        } else {
            self.line.push_str(&escape(text));
        }
    }

    fn cell(&mut self, text: &str) {
        let row = self.table.as_mut().and_then(|rows| rows.last_mut());
        if let Some(cell) = row.and_then(|row| row.last_mut()) {
            cell.push_str(text);
        }
    }

    fn mark(&mut self, mark: &str) {
        if self.table.is_none() && self.code.is_none() {
            self.line.push_str(mark);
        }
    }

    fn end_link(&mut self) {
        // The end of an image inside of a link finds the outer link's beginning; that one is closed then.
        let Some((url, at)) = self.link.take() else { return };
        let label: String = self.line.get(at..).unwrap_or_default().replace(['\n', '|'], " ");
        match safe_url(&url) {
            Some(safe) if label.chars().count() <= MAX_LABEL => {
                self.line.truncate(at);
                let bare = label.is_empty() || label == safe || label == escape(&url);
                self.line.push_str(&match bare {
                    true => format!("<{safe}>"),
                    false => format!("<{safe}|{label}>"),
                });
            }
            _ if label.is_empty() => self.line.push_str(&escape(&url)),
            _ => {}
        }
    }

    fn paragraph(&mut self) {
        self.flush();
        self.end_block_outside();
    }

    /// Writes the open line(s), after the markers of the lists and quotes around them.
    fn flush(&mut self) {
        let text = std::mem::take(&mut self.line);
        if text.trim().is_empty() {
            return;
        }
        let quote = if self.quotes > 0 { "> " } else { "" };
        let indent = "    ".repeat(self.lists.len().saturating_sub(1).min(MAX_INDENT));
        for line in text.trim_end().lines() {
            let bullet = match self.bullet.take() {
                Some(bullet) => bullet,
                None if self.lists.is_empty() => String::new(),
                None => "  ".to_owned(),
            };
            self.lines.push(format!("{quote}{indent}{bullet}{line}"));
        }
    }

    fn end_block_outside(&mut self) {
        if self.lists.is_empty() && self.quotes == 0 {
            self.end_block();
        }
    }

    fn end_block(&mut self) {
        self.flush();
        if !self.lines.is_empty() {
            self.pieces
                .push(Piece::Text(std::mem::take(&mut self.lines).join("\n")));
        }
    }
}
