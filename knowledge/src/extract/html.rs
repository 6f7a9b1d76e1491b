//! HTML: the visible text of the main content, with its headings.
//!
//! The tokens of the page are read one after the other, without a tree: time and memory are linear whatever the markup
//! looks like. The main content is what is in `<main>`, else in `<article>`, else all of the page. Navigation, asides,
//! footers, scripts and hidden elements are left out: text that no reader of the page sees is a way to smuggle instructions
//! into prompts.

mod elements;
mod writer;

use std::convert::Infallible;

use html5gum::Tokenizer;
use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};

use self::elements::{Element, Role, role};
pub(super) use self::writer::{Gap, Writer};
use super::error::ExtractError;
use super::limits::Limits;
use super::markdown::clean;
use super::marks::Extracted;

/// Bytes in which a page's own declaration of its encoding is looked for, as browsers do.
const PRESCAN: usize = 1024;

/// Extracts the text of a page.
pub fn extract(page: &str, limits: &Limits) -> Result<Extracted, ExtractError> {
    for scope in [Scope::Main, Scope::Article, Scope::Page, Scope::Everything] {
        let extracted = read(page, scope, limits)?;
        if !extracted.text.trim().is_empty() {
            return Ok(extracted);
        }
    }
    Err(ExtractError::NoText)
}

/// Returns the encoding that a page declares.
pub fn declared_charset(content: &[u8]) -> Option<String> {
    let head = &content[..content.len().min(PRESCAN)];
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let (_, after) = head
        .split_once("<meta")
        .and_then(|(_, rest)| rest.split_once("charset"))?;
    let label = after
        .trim_start()
        .strip_prefix('=')?
        .trim_start()
        .trim_start_matches(['"', '\'']);
    let end = label.find(|char: char| char.is_whitespace() || matches!(char, '"' | '\'' | ';' | '>' | '/'))?;
    // It was read as ASCII, so it is not one of these, whatever it says.
    let label = if label.starts_with("utf-16") {
        "utf-8"
    } else {
        &label[..end]
    };
    Some(label.to_owned())
}

/// The part of a page that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Main,
    Article,
    /// Without navigation, asides and footers.
    Page,
    /// All but scripts and hidden elements.
    Everything,
}

fn read(page: &str, scope: Scope, limits: &Limits) -> Result<Extracted, ExtractError> {
    let mut reader = Reader {
        scope,
        limits: *limits,
        open: Vec::new(),
        skipped: 0,
        scopes: usize::from(matches!(scope, Scope::Page | Scope::Everything)),
        tag: Tag::default(),
        attribute: None,
        title: None,
        writer: Writer::default(),
        failure: None,
    };
    let mut emitter = CallbackEmitter::new(|event: CallbackEvent<'_>, _span: html5gum::Span<()>| {
        reader.event(event);
        None::<Infallible>
    });
    emitter.naively_switch_states(true);
    let _infallible = Tokenizer::new_with_emitter(page, emitter).finish();
    reader.finish()
}

/// A start tag, until it is closed.
#[derive(Default)]
struct Tag {
    name: Vec<u8>,
    is_hidden: bool,
    role: Vec<u8>,
    alt: Vec<u8>,
}

/// Attributes that are read.
#[derive(Clone, Copy)]
enum Attribute {
    AriaHidden,
    Style,
    Role,
    Alt,
}

struct Reader {
    scope: Scope,
    limits: Limits,
    open: Vec<Element>,
    /// Open elements that are left out.
    skipped: usize,
    /// Open elements of the scope.
    scopes: usize,
    tag: Tag,
    attribute: Option<Attribute>,
    title: Option<String>,
    writer: Writer,
    failure: Option<ExtractError>,
}

impl Reader {
    fn event(&mut self, event: CallbackEvent<'_>) {
        if self.failure.is_some() {
            return;
        }
        match event {
            CallbackEvent::OpenStartTag { name } => {
                self.attribute = None;
                self.tag = Tag {
                    name: name.to_vec(),
                    ..Tag::default()
                };
            }
            CallbackEvent::AttributeName { name } => {
                self.attribute = match name {
                    b"aria-hidden" => Some(Attribute::AriaHidden),
                    b"style" => Some(Attribute::Style),
                    b"role" => Some(Attribute::Role),
                    b"alt" => Some(Attribute::Alt),
                    _ => None,
                };
                self.tag.is_hidden |= name == b"hidden";
            }
            CallbackEvent::AttributeValue { value } => match self.attribute {
                Some(Attribute::AriaHidden) => self.tag.is_hidden |= value.eq_ignore_ascii_case(b"true"),
                Some(Attribute::Style) => self.tag.is_hidden |= hides(value),
                Some(Attribute::Role) => self.tag.role = value.to_ascii_lowercase(),
                Some(Attribute::Alt) => self.tag.alt = value.to_vec(),
                None => {}
            },
            CallbackEvent::CloseStartTag { .. } => {
                let tag = std::mem::take(&mut self.tag);
                self.start(tag);
            }
            CallbackEvent::EndTag { name } => self.end(name),
            CallbackEvent::String { value } => self.text(&String::from_utf8_lossy(value)),
            _ => {}
        }
        if self.writer.text.len() > self.limits.text_bytes {
            self.failure = Some(ExtractError::TooLarge);
        }
    }

    fn is_visible(&self) -> bool {
        self.skipped == 0 && self.scopes > 0
    }

    fn start(&mut self, tag: Tag) {
        let role = role(&tag.name);
        self.close_implied(&tag.name, role);
        if role == Role::Void {
            if self.is_visible() && !tag.is_hidden {
                match &*tag.name {
                    b"br" => self.line_break(),
                    b"hr" => self.writer.gap(Gap::Paragraph),
                    b"img" => self.text(&String::from_utf8_lossy(&tag.alt)),
                    _ => {}
                }
            }
            return;
        }
        let is_boilerplate = self.scope != Scope::Everything
            && (role == Role::Boilerplate
                || matches!(
                    &*tag.role,
                    b"navigation" | b"banner" | b"contentinfo" | b"complementary" | b"search"
                ));
        let is_skipped = tag.is_hidden || role == Role::Never || is_boilerplate;
        let is_scope = match self.scope {
            Scope::Main => tag.name == b"main" || tag.role == b"main",
            Scope::Article => tag.name == b"article" || tag.role == b"article",
            Scope::Page | Scope::Everything => false,
        };
        // Of those that mean nothing, only what could be mistaken for the end of one that does.
        let is_namesake = self
            .open
            .iter()
            .any(|open| open.role == Role::Inline && open.name == tag.name);
        if role == Role::Inline && !is_skipped && !is_scope && !is_namesake {
            return;
        }
        if self.open.len() >= self.limits.depth {
            self.failure = Some(ExtractError::TooDeep);
            return;
        }
        let was_visible = self.is_visible();
        self.skipped += usize::from(is_skipped);
        self.scopes += usize::from(is_scope);
        if was_visible || self.is_visible() {
            self.open_block(&tag.name, role);
        }
        self.open.push(Element {
            name: tag.name,
            role,
            is_skipped,
            is_scope,
            items: 0,
        });
    }

    /// Writes what comes before the content of an element.
    fn open_block(&mut self, name: &[u8], role: Role) {
        match role {
            Role::Cell => self.writer.cell(),
            Role::Row => {
                self.writer.end_row();
                self.writer.gap(Gap::Line);
            }
            Role::Item => {
                self.writer.gap(Gap::Line);
                let depth = self.open.iter().filter(|open| open.role == Role::List).count();
                let list = self.open.iter_mut().rfind(|open| open.role == Role::List);
                let number = list.and_then(|list| {
                    list.items += 1;
                    (list.name == b"ol").then_some(list.items)
                });
                self.writer.item(depth, number);
            }
            Role::Heading(level) => {
                self.writer.gap(Gap::Paragraph);
                self.writer.begin_heading(level);
            }
            Role::Preformatted => {
                self.writer.gap(Gap::Paragraph);
                self.writer.begin_verbatim();
            }
            Role::Line if self.is_in_cell() => self.writer.gap(Gap::Space),
            Role::Line => self.writer.gap(Gap::Line),
            Role::Block if name == b"p" && self.is_in_cell() => self.writer.gap(Gap::Space),
            Role::Block | Role::List | Role::Table => self.writer.gap(Gap::Paragraph),
            Role::Inline | Role::Void | Role::Never | Role::Boilerplate => {}
        }
    }

    /// Ends the elements that the start of another one ends.
    fn close_implied(&mut self, name: &[u8], role: Role) {
        if role.is_block() && self.open.last().is_some_and(|open| open.name == b"p") {
            self.close(self.open.len() - 1);
        }
        type Test = fn(&Element) -> bool;
        let (ended, within): (Test, Test) = match role {
            Role::Item => (|open| open.role == Role::Item, |open| open.role == Role::List),
            Role::Cell => (
                |open| open.role == Role::Cell,
                |open| matches!(open.role, Role::Row | Role::Table),
            ),
            Role::Row => (
                |open| matches!(open.role, Role::Row | Role::Cell),
                |open| open.role == Role::Table,
            ),
            Role::Line if matches!(name, b"dt" | b"dd") => {
                (|open| matches!(&*open.name, b"dt" | b"dd"), |open| open.name == b"dl")
            }
            _ => return,
        };
        let inner = self.open.iter().rposition(within).map_or(0, |index| index + 1);
        if let Some(index) = self.open[inner..].iter().position(ended) {
            self.close(inner + index);
        }
    }

    fn end(&mut self, name: &[u8]) {
        if let Some(index) = self.open.iter().rposition(|open| open.name == name) {
            self.close(index);
        } else if name == b"br" {
            self.line_break();
        }
    }

    /// Ends the element at this position and all within it.
    fn close(&mut self, index: usize) {
        while self.open.len() > index {
            let Some(element) = self.open.pop() else {
                return;
            };
            let was_visible = self.is_visible();
            self.skipped -= usize::from(element.is_skipped);
            self.scopes -= usize::from(element.is_scope);
            if !was_visible {
                continue;
            }
            match element.role {
                Role::Heading(_) => self.writer.end_heading(),
                Role::Preformatted => self.writer.end_verbatim(),
                Role::Row | Role::Table => self.writer.end_row(),
                _ => {}
            }
            match element.role {
                Role::Cell | Role::Inline => {}
                Role::Line | Role::Item | Role::Row => {
                    self.writer.gap(if self.is_in_cell() { Gap::Space } else { Gap::Line });
                }
                Role::Block if element.name == b"p" && self.is_in_cell() => self.writer.gap(Gap::Space),
                _ => self.writer.gap(Gap::Paragraph),
            }
        }
    }

    fn is_in_cell(&self) -> bool {
        let mut inner = self.open.iter().rev();
        inner
            .find(|open| matches!(open.role, Role::Cell | Role::Table))
            .is_some_and(|open| open.role == Role::Cell)
    }

    fn line_break(&mut self) {
        if self.is_visible() {
            self.writer.gap(if self.is_in_cell() { Gap::Space } else { Gap::Line });
        }
    }

    fn text(&mut self, text: &str) {
        let inner = self.open.last();
        if inner.is_some_and(|open| open.name == b"title") {
            // The first one: others belong to pictures.
            if self.title.is_none() && self.skipped == 1 {
                self.title = Some(clean(text)).filter(|title| !title.is_empty());
            }
            return;
        }
        if !self.is_visible() {
            return;
        }
        if self.open.iter().any(|open| open.role == Role::Preformatted) {
            self.writer.verbatim(text);
        } else {
            self.writer.flow(text);
        }
    }

    fn finish(mut self) -> Result<Extracted, ExtractError> {
        self.close(0);
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let (text, marks) = self.writer.finish();
        let title = self.title.or_else(|| {
            let first = marks.headings.first().filter(|heading| heading.level == 1);
            first.map(|heading| heading.text.clone())
        });
        Ok(Extracted { title, text, marks })
    }
}

/// Whether a style hides its element.
fn hides(style: &[u8]) -> bool {
    let style: Vec<u8> = style
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(u8::to_ascii_lowercase)
        .collect();
    let contains = |needle: &[u8]| style.windows(needle.len()).any(|window| window == needle);
    contains(b"display:none") || contains(b"visibility:hidden")
}

#[cfg(test)]
mod tests;
