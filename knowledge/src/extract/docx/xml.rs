//! The tags and texts of an XML part, in their order.
//!
//! Read by the tokenizer of HTML, which knows no entities but those that every part may use, and opens nothing. Names come
//! in lower case; a name with a prefix is none of those that HTML treats in a special way.

use std::convert::Infallible;

use html5gum::Tokenizer;
use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};

/// A start tag, with the attributes that are read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) name: String,
    /// Attributes by name.
    attributes: Vec<(&'static str, String)>,
    pub(super) is_empty: bool,
}

impl Tag {
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns whether the property that it sets is on.
    pub(super) fn is_on(&self) -> bool {
        !matches!(self.attribute("w:val"), Some("0" | "false" | "off" | "none"))
    }
}

/// A piece of a part.
pub(super) enum Piece<'a> {
    Start(&'a Tag),
    End(&'a str),
    Text(&'a str),
}

/// Attributes that anything here reads.
const ATTRIBUTES: [&str; 4] = ["w:val", "w:styleid", "type", "target"];

/// Passes all pieces on, until it is told to stop.
pub(super) fn read(part: &str, mut piece: impl FnMut(Piece<'_>) -> bool) {
    let mut tag = Tag::default();
    let mut attribute = None;
    let mut goes_on = true;
    let emitter = CallbackEmitter::new(|event: CallbackEvent<'_>, _span: html5gum::Span<()>| {
        if !goes_on {
            return None::<Infallible>;
        }
        match event {
            CallbackEvent::OpenStartTag { name } => {
                attribute = None;
                tag.name.clear();
                tag.name.push_str(&String::from_utf8_lossy(name));
                tag.attributes.clear();
            }
            CallbackEvent::AttributeName { name } => {
                attribute = ATTRIBUTES.into_iter().find(|known| known.as_bytes() == name);
            }
            CallbackEvent::AttributeValue { value } => {
                if let Some(name) = attribute.take() {
                    tag.attributes.push((name, String::from_utf8_lossy(value).into_owned()));
                }
            }
            CallbackEvent::CloseStartTag { self_closing } => {
                tag.is_empty = self_closing;
                goes_on = piece(Piece::Start(&tag));
                if goes_on && self_closing {
                    goes_on = piece(Piece::End(&tag.name));
                }
            }
            CallbackEvent::EndTag { name } => goes_on = piece(Piece::End(&String::from_utf8_lossy(name))),
            CallbackEvent::String { value } => goes_on = piece(Piece::Text(&String::from_utf8_lossy(value))),
            _ => {}
        }
        None
    });
    let _infallible = Tokenizer::new_with_emitter(part, emitter).finish();
}
