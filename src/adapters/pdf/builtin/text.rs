//! The text of a page, from the operators that draw it (ISO 32000-1, 9.4): where strings stand on one line and are apart, a
//! space is between them, and a new line where they stand below each other.

use std::collections::HashMap;
use std::rc::Rc;

use lopdf::content::Content;
use lopdf::{Dictionary, Document, Encoding, Object, ObjectId, Stream};

/// Most forms that draw each other.
const MAX_DEPTH: usize = 12;
/// Most bytes of a decompressed content.
const MAX_CONTENT: usize = 64 * 1024 * 1024;
/// Gap between two strings that is a space, as a share of the font's size: less than the narrowest usual space.
const SPACE: f32 = 0.2;
/// Distance between base lines from which on they are two lines, as a share of the font's size: more than that of an index.
const LINE: f32 = 0.5;
/// Width of a character of unknown width, in thousandths of the font's size.
const USUAL_WIDTH: f32 = 500.0;

/// `[a b c d e f]`.
type Matrix = [f32; 6];
const UNIT: Matrix = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0];

/// Returns the matrix that does `first`, then `then`.
fn product(first: Matrix, then: Matrix) -> Matrix {
    let [a, b, c, d, e, f] = first;
    let [ta, tb, tc, td, te, tf] = then;
    [
        a * ta + b * tc,
        a * tb + b * td,
        c * ta + d * tc,
        c * tb + d * td,
        e * ta + f * tc + te,
        e * tb + f * td + tf,
    ]
}

/// Returns the text of a page; none if nothing of its content can be read.
pub fn of_page(document: &Document, page: ObjectId) -> Option<String> {
    let content = document.get_page_content_with_limit(page, MAX_CONTENT).ok()?;
    let (own, inherited) = document.get_page_resources(page).ok()?;
    let inherited = inherited.iter().filter_map(|id| document.get_dictionary(*id).ok());
    let resources: Vec<&Dictionary> = own.into_iter().chain(inherited).collect();
    let mut walk = Walk {
        document,
        text: String::new(),
        last: None,
    };
    walk.content(&content, &resources, UNIT, 0)?;
    Some(walk.text)
}

struct Walk<'a> {
    document: &'a Document,
    text: String,
    /// Where the last string ended, and the height of its font.
    last: Option<(f32, f32)>,
}

/// A font of a content.
struct Font<'a> {
    encoding: Encoding<'a>,
    widths: HashMap<u32, f32>,
    usual: f32,
    /// Whether a character code has two bytes.
    is_wide: bool,
}

/// What `q` saves.
#[derive(Clone)]
struct State<'a> {
    matrix: Matrix,
    font: Option<Rc<Font<'a>>>,
    size: f32,
    leading: f32,
    character: f32,
    word: f32,
    stretch: f32,
}

impl<'a> Walk<'a> {
    fn content(&mut self, content: &[u8], resources: &[&'a Dictionary], matrix: Matrix, depth: usize) -> Option<()> {
        let content = Content::decode(content).ok()?;
        let mut fonts: HashMap<Vec<u8>, Option<Rc<Font<'a>>>> = HashMap::new();
        let mut state = State {
            matrix,
            font: None,
            size: 1.0,
            leading: 0.0,
            character: 0.0,
            word: 0.0,
            stretch: 1.0,
        };
        let mut saved: Vec<State<'a>> = Vec::new();
        let (mut line, mut place) = (UNIT, UNIT);
        for operation in &content.operations {
            let operands = operation.operands.as_slice();
            let number = |at: usize| {
                operands
                    .get(at)
                    .and_then(|operand| operand.as_float().ok())
                    .unwrap_or(0.0)
            };
            let moved = |line: Matrix, x: f32, y: f32| product([1.0, 0.0, 0.0, 1.0, x, y], line);
            match operation.operator.as_str() {
                "q" if saved.len() < 256 => saved.push(state.clone()),
                "Q" => state = saved.pop().unwrap_or(state),
                "cm" => state.matrix = product(std::array::from_fn(number), state.matrix),
                "BT" => (line, place) = (UNIT, UNIT),
                "Tf" => {
                    let name = operands
                        .first()
                        .and_then(|name| name.as_name().ok())
                        .unwrap_or_default();
                    let font = fonts.entry(name.to_vec());
                    state.font = font.or_insert_with(|| self.font(name, resources).map(Rc::new)).clone();
                    state.size = number(1);
                }
                "Tc" => state.character = number(0),
                "Tw" => state.word = number(0),
                "Tz" => state.stretch = number(0) / 100.0,
                "TL" => state.leading = number(0),
                "Td" | "TD" => {
                    if operation.operator == "TD" {
                        state.leading = -number(1);
                    }
                    line = moved(line, number(0), number(1));
                    place = line;
                }
                "Tm" => {
                    line = std::array::from_fn(number);
                    place = line;
                }
                "T*" => {
                    line = moved(line, 0.0, -state.leading);
                    place = line;
                }
                "Tj" => self.show(operands, &state, &mut place),
                "TJ" => {
                    if let Some(Object::Array(parts)) = operands.first() {
                        self.show(parts, &state, &mut place);
                    }
                }
                "'" | "\"" => {
                    if operation.operator == "\"" {
                        (state.word, state.character) = (number(0), number(1));
                    }
                    line = moved(line, 0.0, -state.leading);
                    place = line;
                    self.show(&operands[operands.len().saturating_sub(1)..], &state, &mut place);
                }
                "Do" if depth < MAX_DEPTH => {
                    let name = operands
                        .first()
                        .and_then(|name| name.as_name().ok())
                        .unwrap_or_default();
                    if let Some(form) = self.form(name, resources) {
                        self.draw(form, resources, state.matrix, depth);
                    }
                }
                _ => {}
            }
        }
        Some(())
    }

    fn draw(&mut self, form: &'a Stream, resources: &[&'a Dictionary], matrix: Matrix, depth: usize) {
        let Ok(content) = form.decompressed_content_with_limit(MAX_CONTENT) else {
            return;
        };
        let own = form.dict.get(b"Resources").ok().and_then(|own| self.dictionary(own));
        let mut matrix = matrix;
        if let Ok(Object::Array(numbers)) = form.dict.get(b"Matrix")
            && numbers.len() == 6
        {
            let number = |at: usize| numbers[at].as_float().unwrap_or(0.0);
            matrix = product(std::array::from_fn(number), matrix);
        }
        let resources = own.map_or_else(|| resources.to_vec(), |own| vec![own]);
        self.content(&content, &resources, matrix, depth + 1);
    }

    /// Shows strings, with numbers between them that move the place.
    fn show(&mut self, parts: &[Object], state: &State<'a>, place: &mut Matrix) {
        let ahead = |place: &mut Matrix, x: f32| *place = product([1.0, 0.0, 0.0, 1.0, x, 0.0], *place);
        for part in parts {
            match part {
                Object::String(bytes, _) => {
                    let Some(font) = &state.font else { continue };
                    let at = product(*place, state.matrix);
                    let decoded = Document::decode_text(&font.encoding, bytes).unwrap_or_default();
                    let height = state.size.abs() * at[2].hypot(at[3]);
                    self.append(&decoded, (at[4], at[5]), height);
                    ahead(place, font.width(bytes, state));
                    let end = product(*place, state.matrix);
                    self.last = Some((end[4], end[5]));
                }
                number => {
                    let number = number.as_float().unwrap_or(0.0);
                    ahead(place, -number / 1000.0 * state.size * state.stretch);
                }
            }
        }
    }

    fn append(&mut self, decoded: &str, (x, y): (f32, f32), height: f32) {
        if let Some((last_x, last_y)) = self.last
            && !self.text.is_empty()
        {
            let is_apart = !self.text.ends_with(char::is_whitespace) && !decoded.starts_with(char::is_whitespace);
            if (y - last_y).abs() > LINE * height {
                self.hyphen(decoded);
                if !self.text.ends_with('\n') {
                    self.text.push('\n');
                }
            } else if is_apart && ((x - last_x) > SPACE * height || (last_x - x) > height) {
                self.text.push(' ');
            }
        }
        self.text.push_str(decoded);
    }

    /// Marks a hyphen at the end of a line as PDFium does, if the word goes on.
    fn hyphen(&mut self, next: &str) {
        let goes_on = next.starts_with(char::is_lowercase);
        if let Some(before) = self.text.trim_end_matches(' ').strip_suffix('-')
            && goes_on
            && before.ends_with(char::is_alphabetic)
        {
            let length = before.len();
            self.text.truncate(length);
            self.text.push('\u{2}');
        }
    }

    fn dictionary(&self, object: &'a Object) -> Option<&'a Dictionary> {
        self.document.dereference(object).ok()?.1.as_dict().ok()
    }

    /// Finds a resource by its kind and name.
    fn resource(&self, kind: &[u8], name: &[u8], resources: &[&'a Dictionary]) -> Option<&'a Object> {
        let mut found = resources.iter().filter_map(|resources| {
            let of_kind = self.dictionary(resources.get(kind).ok()?)?;
            Some(self.document.dereference(of_kind.get(name).ok()?).ok()?.1)
        });
        found.next()
    }

    fn form(&self, name: &[u8], resources: &[&'a Dictionary]) -> Option<&'a Stream> {
        let form = self.resource(b"XObject", name, resources)?.as_stream().ok()?;
        let is_form = form
            .dict
            .get(b"Subtype")
            .and_then(Object::as_name)
            .is_ok_and(|kind| kind == b"Form");
        is_form.then_some(form)
    }

    fn font(&self, name: &[u8], resources: &[&'a Dictionary]) -> Option<Font<'a>> {
        let font = self.resource(b"Font", name, resources)?.as_dict().ok()?;
        let encoding = font.get_font_encoding_with_limit(self.document, MAX_CONTENT).ok()?;
        let list = |of: &'a Dictionary, name: &[u8]| -> &'a [Object] {
            let found = of.get(name).and_then(|list| self.document.dereference(list));
            found
                .ok()
                .and_then(|(_, list)| list.as_array().ok())
                .map_or(&[], Vec::as_slice)
        };
        let number = |of: &'a Dictionary, name: &[u8]| of.get(name).ok().and_then(|number| number.as_float().ok());
        let mut widths = HashMap::new();
        let descendant = list(font, b"DescendantFonts")
            .first()
            .and_then(|font| self.dictionary(font));
        let Some(descendant) = descendant else {
            let first = number(font, b"FirstChar").map_or(0, |first| first as u32);
            for (code, width) in (first..).zip(list(font, b"Widths")) {
                let width = self
                    .document
                    .dereference(width)
                    .ok()
                    .and_then(|(_, width)| width.as_float().ok());
                widths.extend(width.map(|width| (code, width)));
            }
            return Some(Font {
                encoding,
                widths,
                usual: USUAL_WIDTH,
                is_wide: false,
            });
        };
        let mut of_codes = list(descendant, b"W").iter();
        while let (Some(first), Some(next)) = (of_codes.next(), of_codes.next()) {
            let first = first.as_float().map_or(0, |first| first as u32);
            match next {
                Object::Array(some) => {
                    let some = some.iter().map(|width| width.as_float().unwrap_or(USUAL_WIDTH));
                    widths.extend((first..).zip(some));
                }
                last => {
                    let last = last.as_float().map_or(0, |last| last as u32).min(0xffff);
                    let Some(width) = of_codes.next().and_then(|width| width.as_float().ok()) else {
                        break;
                    };
                    widths.extend((first..=last).map(|code| (code, width)));
                }
            }
        }
        let usual = number(descendant, b"DW").unwrap_or(1000.0);
        Some(Font {
            encoding,
            widths,
            usual,
            is_wide: true,
        })
    }
}

impl Font<'_> {
    /// Returns the width of a string in text space.
    fn width(&self, bytes: &[u8], state: &State<'_>) -> f32 {
        let step = if self.is_wide { 2 } else { 1 };
        let widths = bytes.chunks(step).map(|code| {
            let code = code.iter().fold(0, |code, byte| code << 8 | u32::from(*byte));
            let width = self.widths.get(&code).copied().unwrap_or(self.usual);
            let word = if code == 32 && !self.is_wide { state.word } else { 0.0 };
            width / 1000.0 * state.size + state.character + word
        });
        widths.sum::<f32>() * state.stretch
    }
}
