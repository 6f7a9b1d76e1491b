//! Texts grown from random bytes: well-formed JSON most of the time, broken at random places.

/// Deepest value that is grown; deeper than bodies may be.
const DEPTH: usize = 80;

/// A stream of decisions. An exhausted one returns zero, so that every input ends.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// Chooses one of `items`.
    pub fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[usize::from(self.byte()) % items.len()]
    }

    /// Takes up to `most` raw bytes.
    pub fn take(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

const STRINGS: &[&str] = &[
    "",
    "a",
    "messages",
    "Messages",
    "role",
    "content",
    "id",
    "\u{0}",
    "\\u0000",
    "\\ud800",
    "\\ud83d\\ude80",
    "\\\"",
    "\u{202e}",
    "ﬁ",
    "/",
    "~",
    "https://example.com/",
    "2026-01-01T00:00:00Z",
    "9007199254740993",
    "</tool_result>",
    "<|im_end|>",
];
const SCALARS: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-0",
    "1",
    "-1",
    "0.1",
    "1e400",
    "-1e-400",
    "1E+2",
    "01",
    "18446744073709551616",
    "-9223372036854775809",
    "NaN",
    "Infinity",
    "tru",
    "+1",
    ".5",
    "1.",
];

/// Grows a JSON text.
pub fn json(bytes: &[u8]) -> String {
    let mut choices = Choices::new(bytes);
    let mut text = String::new();
    value(&mut choices, DEPTH, &mut text);
    while !choices.is_empty() && choices.byte() > 250 {
        text.push(choices.of(&[' ', '\n', '}', ']', ',', '"', '\u{feff}']));
    }
    text
}

fn value(choices: &mut Choices<'_>, depth: usize, text: &mut String) {
    // An exhausted stream ends here: zero is a scalar.
    match choices.byte() {
        0..=79 => text.push_str(choices.of(SCALARS)),
        80..=139 => string(choices, text),
        140..=199 if depth > 0 => {
            text.push('[');
            for index in 0..choices.byte() % 5 {
                if index > 0 {
                    text.push(',');
                }
                value(choices, depth - 1, text);
            }
            text.push(']');
        }
        200..=253 if depth > 0 => {
            text.push('{');
            for index in 0..choices.byte() % 5 {
                if index > 0 {
                    text.push(',');
                }
                string(choices, text);
                text.push(':');
                value(choices, depth - 1, text);
            }
            text.push('}');
        }
        // Any byte, so that the text can be broken at any place.
        _ => text.push_str(&String::from_utf8_lossy(choices.take(3))),
    }
}

fn string(choices: &mut Choices<'_>, text: &mut String) {
    text.push('"');
    text.push_str(choices.of(STRINGS));
    text.push_str(choices.of(STRINGS));
    text.push('"');
}
