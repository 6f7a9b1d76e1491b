//! DOCX (ECMA-376, WordprocessingML): the text that Word shows, with headings, lists and tables.
//!
//! A document is a ZIP archive of XML parts. Only its main part, its styles and its title are unpacked, each into a bounded
//! buffer, and no tree is built: a small archive that unpacks to gigabytes ends as too large. Deleted and hidden text is left
//! out: text that no reader of the document sees is a way to smuggle instructions into prompts. So are headers, footers,
//! notes and comments.

mod xml;
mod zip;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use self::xml::{Piece, Tag, read};
use self::zip::Archive;
use super::error::ExtractError;
use super::html::{Gap, Writer};
use super::limits::Limits;
use super::markdown::clean;
use super::marks::Extracted;
use super::text;

/// Bytes of the unpacked main part for each byte of text that may be extracted.
const MARKUP: usize = 2;
/// Most bytes of the other parts.
const MAX_SMALL_PART: usize = 4 << 20;
/// Most styles.
const MAX_STYLES: usize = 10_000;
/// Most styles that one is based on, one on the other.
const MAX_BASES: usize = 10;
/// The main part, unless the archive names another one.
const MAIN: &str = "word/document.xml";
/// How a compound file begins, as Word writes documents with a password and those of before 2007.
const COMPOUND: &[u8] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1";
/// What a compound file with a password contains, in UTF-16.
const PROTECTED: &str = "EncryptedPackage";

/// Extracts the text of a document.
pub fn extract(content: &[u8], limits: &Limits) -> Result<Extracted, ExtractError> {
    if content.starts_with(COMPOUND) {
        let name: Vec<u8> = PROTECTED.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let is_protected = content.windows(name.len()).any(|window| window == name);
        return Err(if is_protected {
            ExtractError::Encrypted
        } else {
            ExtractError::Damaged
        });
    }
    let archive = Archive::open(content)?;
    let main = main_part(&archive)?;
    let most = limits.text_bytes.saturating_mul(MARKUP);
    let document = part(&archive, &main, most)?.ok_or(ExtractError::Damaged)?;
    let beside = main.rfind('/').map_or("", |slash| &main[..=slash]);
    let styles = part(&archive, &format!("{beside}styles.xml"), MAX_SMALL_PART)?.unwrap_or_default();
    let core = part(&archive, "docProps/core.xml", MAX_SMALL_PART)?.unwrap_or_default();
    let mut reader = Reader {
        styles: read_styles(&styles),
        limits: *limits,
        ..Reader::default()
    };
    drop(styles);
    read(&document, |piece| reader.piece(&piece));
    reader.finish(title(&core))
}

/// Returns the text of a part.
fn part(archive: &Archive<'_>, name: &str, most: usize) -> Result<Option<String>, ExtractError> {
    let limits = Limits {
        text_bytes: most,
        ..Limits::default()
    };
    let Some(content) = archive.part(name, most)? else {
        return Ok(None);
    };
    text::decode(&content, None, &limits)
        .map(Some)
        .map_err(|error| match error {
            ExtractError::NotText => ExtractError::Damaged,
            error => error,
        })
}

/// Returns the name of the part with the document's text, from the archive's relations.
fn main_part(archive: &Archive<'_>) -> Result<String, ExtractError> {
    let relations = part(archive, "_rels/.rels", MAX_SMALL_PART)?.unwrap_or_default();
    let mut target = None;
    read(&relations, |piece| {
        if let Piece::Start(tag) = piece {
            let is_main = tag
                .attribute("type")
                .is_some_and(|kind| kind.ends_with("/officeDocument"));
            if is_main {
                target = tag
                    .attribute("target")
                    .map(|name| name.trim_start_matches('/').to_owned());
            }
        }
        target.is_none()
    });
    Ok(target.unwrap_or_else(|| MAIN.to_owned()))
}

/// Returns the title in the document's properties.
fn title(core: &str) -> Option<String> {
    let (mut is_open, mut title) = (false, String::new());
    read(core, |piece| {
        match piece {
            Piece::Start(tag) => is_open = tag.name == "dc:title",
            Piece::End(_) => is_open = false,
            Piece::Text(text) if is_open => title.push_str(text),
            Piece::Text(_) => {}
        }
        true
    });
    Some(clean(&title)).filter(|title| !title.is_empty())
}

/// What a style means here.
#[derive(Debug, Clone, Default)]
struct Style {
    /// Id of the style that it is based on.
    base: Option<String>,
    meaning: Meaning,
}

/// What a paragraph or a run with a style is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Meaning {
    /// Level of a heading.
    level: Option<u8>,
    is_title: bool,
    is_item: bool,
    is_hidden: bool,
}

/// Reads the styles. Their ids differ between languages, the names of the built-in ones do not.
fn read_styles(part: &str) -> HashMap<String, Style> {
    let mut styles = HashMap::new();
    let mut open: Option<(String, Style)> = None;
    read(part, |piece| {
        match piece {
            Piece::Start(tag) if tag.name == "w:style" => {
                open = tag.attribute("w:styleid").map(|id| (id.to_owned(), Style::default()));
            }
            Piece::Start(tag) => {
                if let Some((_, style)) = &mut open {
                    let meaning = &mut style.meaning;
                    match tag.name.as_str() {
                        "w:name" => meaning.name(tag.attribute("w:val").unwrap_or_default()),
                        "w:basedon" => style.base = tag.attribute("w:val").map(str::to_owned),
                        "w:outlinelvl" => meaning.level = meaning.level.or(outline_level(tag)),
                        "w:numid" => meaning.is_item = tag.is_on(),
                        "w:vanish" => meaning.is_hidden = tag.is_on(),
                        _ => {}
                    }
                }
            }
            Piece::End("w:style") => {
                styles.extend(open.take());
            }
            Piece::End(_) | Piece::Text(_) => {}
        }
        styles.len() < MAX_STYLES
    });
    styles
}

/// Returns what a style means, with the styles that it is based on.
fn meaning(styles: &HashMap<String, Style>, id: &str) -> Meaning {
    let mut next = styles.get(id);
    let mut meaning = next.map(|style| style.meaning).unwrap_or_default();
    // One may be based on itself.
    for _ in 0..MAX_BASES {
        next = next.and_then(|style| styles.get(style.base.as_ref()?));
        let Some(Style { meaning: base, .. }) = next else { break };
        meaning.level = meaning.level.or(base.level);
        meaning.is_item |= base.is_item;
        meaning.is_hidden |= base.is_hidden;
    }
    meaning
}

impl Meaning {
    fn name(&mut self, name: &str) {
        let name = name.to_lowercase();
        self.is_title = name == "title";
        if let Some(level) = name.strip_prefix("heading ").and_then(|level| level.parse().ok()) {
            self.level = heading_level(level);
        }
    }
}

/// Returns the level of a heading that counts from 1.
fn heading_level(level: u8) -> Option<u8> {
    (1..=9).contains(&level).then(|| level.min(6))
}

/// Returns the level of a paragraph's outline, which counts from 0; 9 is none.
fn outline_level(tag: &Tag) -> Option<u8> {
    let level: u8 = tag.attribute("w:val")?.parse().ok()?;
    heading_level(level.checked_add(1)?)
}

/// Elements that are left out with all that is in them: what was deleted or moved away, earlier properties, what is shown
/// only if something else cannot be, and pronunciations.
const LEFT_OUT: [&str; 10] = [
    "w:del",
    "w:movefrom",
    "w:deltext",
    "w:instrtext",
    "w:pprchange",
    "w:rprchange",
    "w:sectpr",
    "w:tblprchange",
    "mc:fallback",
    "w:rt",
];

/// Properties of the open paragraph.
#[derive(Debug, Clone, Copy, Default)]
struct Paragraph {
    style: Meaning,
    level: Option<u8>,
    is_item: bool,
    depth: usize,
    /// Whether something of it was written.
    is_begun: bool,
}

/// Reads the main part.
#[derive(Default)]
struct Reader {
    styles: HashMap<String, Style>,
    limits: Limits,
    writer: Writer,
    /// Name of the element that is left out, and how many of that name are open in it.
    left_out: Option<(String, usize)>,
    paragraph: Paragraph,
    cells: usize,
    is_run: bool,
    is_hidden: bool,
    is_text: bool,
    /// Text of the first paragraph with the style of titles.
    title: Option<String>,
    failure: Option<ExtractError>,
}

impl Reader {
    fn piece(&mut self, piece: &Piece<'_>) -> bool {
        match (piece, &mut self.left_out) {
            (Piece::Start(tag), Some((name, count))) if tag.name == *name => *count += 1,
            (Piece::End(ended), Some((name, count))) if *ended == name.as_str() => {
                *count -= 1;
                if *count == 0 {
                    self.left_out = None;
                }
            }
            (_, Some(_)) => {}
            (Piece::Start(tag), None) if LEFT_OUT.contains(&tag.name.as_str()) => {
                // In the properties of a run it says something about its end, and has no content.
                self.left_out = Some((tag.name.clone(), 1));
            }
            (Piece::Start(tag), None) => self.start(tag),
            (Piece::End(name), None) => self.end(name),
            (Piece::Text(text), None) => {
                if self.is_text && !self.is_hidden && !self.paragraph.style.is_hidden {
                    self.write(text);
                }
            }
        }
        if self.writer.text.len() > self.limits.text_bytes {
            self.failure = Some(ExtractError::TooLarge);
        }
        self.failure.is_none()
    }

    fn start(&mut self, tag: &Tag) {
        let style = |reader: &Self| {
            let id = tag.attribute("w:val").unwrap_or_default();
            meaning(&reader.styles, id)
        };
        match tag.name.as_str() {
            "w:p" => self.begin_paragraph(),
            "w:pstyle" => {
                self.paragraph.style = style(self);
                self.paragraph.is_item = self.paragraph.style.is_item;
            }
            "w:outlinelvl" => self.paragraph.level = outline_level(tag),
            "w:ilvl" => {
                let depth = tag.attribute("w:val").and_then(|depth| depth.parse::<u8>().ok());
                self.paragraph.depth = depth.unwrap_or(0).into();
            }
            "w:numid" => self.paragraph.is_item = tag.is_on(),
            "w:r" => (self.is_run, self.is_hidden) = (true, false),
            "w:vanish" if self.is_run => self.is_hidden = tag.is_on(),
            "w:rstyle" if self.is_run => self.is_hidden |= style(self).is_hidden,
            "w:t" | "m:t" => self.is_text = true,
            "w:tab" if self.is_run => self.write(" "),
            "w:nobreakhyphen" if self.is_run => self.write("-"),
            "w:br" | "w:cr" if self.is_run => self.writer.gap(self.line()),
            "w:tbl" => self.writer.gap(Gap::Paragraph),
            "w:tr" => {
                self.writer.end_row();
                self.writer.gap(Gap::Line);
            }
            "w:tc" => {
                self.writer.cell();
                self.cells += 1;
            }
            _ => {}
        }
    }

    fn end(&mut self, name: &str) {
        match name {
            "w:p" => self.end_paragraph(),
            "w:r" => (self.is_run, self.is_hidden) = (false, false),
            "w:t" | "m:t" => self.is_text = false,
            "w:tc" => self.cells = self.cells.saturating_sub(1),
            "w:tr" => {
                self.writer.end_row();
                self.writer.gap(self.line());
            }
            "w:tbl" => {
                self.writer.end_row();
                self.writer
                    .gap(if self.cells > 0 { Gap::Space } else { Gap::Paragraph });
            }
            _ => {}
        }
    }

    /// A new line, but not within a row of a table or a heading.
    fn line(&self) -> Gap {
        if self.cells > 0 || self.heading().is_some() {
            Gap::Space
        } else {
            Gap::Line
        }
    }

    fn heading(&self) -> Option<u8> {
        let style = self.paragraph.style;
        let level = self.paragraph.level.or(style.level).or(style.is_title.then_some(1));
        level.filter(|_| self.cells == 0)
    }

    fn begin_paragraph(&mut self) {
        // One within another, such as that of a text box, ends it.
        self.end_paragraph();
        self.paragraph = Paragraph::default();
    }

    fn write(&mut self, text: &str) {
        if !self.paragraph.is_begun && !text.trim().is_empty() {
            self.paragraph.is_begun = true;
            let Paragraph { is_item, depth, .. } = self.paragraph;
            if self.cells > 0 {
                self.writer.gap(Gap::Space);
            } else if let Some(level) = self.heading() {
                self.writer.gap(Gap::Paragraph);
                self.writer.begin_heading(level);
            } else if is_item {
                self.writer.gap(Gap::Line);
                self.writer.item(depth + 1, None);
            } else {
                self.writer.gap(Gap::Paragraph);
            }
        }
        self.writer.flow(text);
    }

    fn end_paragraph(&mut self) {
        let was_begun = std::mem::take(&mut self.paragraph.is_begun);
        if !was_begun {
            return;
        }
        if self.heading().is_some() {
            self.writer.end_heading();
            if self.paragraph.style.is_title && self.title.is_none() {
                self.title = self.writer.last_heading().map(str::to_owned);
            }
        }
        let is_item = self.paragraph.is_item && self.heading().is_none();
        self.writer.gap(match self.cells {
            0 if is_item => Gap::Line,
            0 => Gap::Paragraph,
            _ => Gap::Space,
        });
    }

    fn finish(mut self, title: Option<String>) -> Result<Extracted, ExtractError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.end_paragraph();
        self.writer.end_row();
        let (text, marks) = self.writer.finish();
        let first = marks.headings.first().filter(|heading| heading.level == 1);
        let title = title
            .or(self.title)
            .or_else(|| first.map(|heading| heading.text.clone()));
        Ok(Extracted { title, text, marks })
    }
}
