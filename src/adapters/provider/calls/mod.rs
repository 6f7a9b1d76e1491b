//! Puts the tool calls of one answer together.
//!
//! Servers do not agree on how they tell parallel calls apart: by an index, by an id, by both, or by one of them that is always the
//! same. Here the id decides where there is one, then the index, then the order. A name may come late, in pieces, or in every
//! piece; arguments may come as an object.
//!
//! Invariant: no call ever gets a piece of another one's arguments. Where a piece could belong to more than one call, the answer
//! fails.

mod slot;
#[cfg(test)]
mod tests;

use slot::Slot;

use serde_json::value::RawValue;

use super::lenient::{Seam, Writer, said, skipped};

/// Most calls of one step.
pub const MAX_CALLS: usize = 128;

const TOO_MANY: &str = "it asked for too many tools at once";
const AMBIGUOUS: &str = "it sent a piece of arguments that may belong to several tool calls";
const NAMELESS: &str = "it sent arguments for a tool that it did not name";
const TWICE: &str = "it sent two sets of arguments for one tool call";

/// A piece of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallPiece {
    /// Its number, if it is told.
    pub index: Option<u64>,
    /// Its id; empty if it is not told.
    pub id: String,
    /// Its name, or a piece of it; empty if it is not told.
    pub name: String,
    /// Its arguments, or a piece of them.
    pub arguments: Arguments,
}

/// Arguments as they come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Arguments {
    /// None.
    #[default]
    None,
    /// A piece of their JSON.
    Text(String),
    /// All of them, as JSON and not as a text with JSON in it.
    Value(String),
}

/// A whole call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its number, from 0.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// Its arguments' JSON, as the model wrote it; empty if it wrote none.
    pub arguments: String,
}

/// Tells whether a tool of this name was offered; none if that is not known.
pub type Offers<'a> = &'a dyn Fn(&str) -> Option<bool>;

/// The calls of one answer.
#[derive(Debug, Default)]
pub struct Calls {
    slots: Vec<Slot>,
    /// The one that the last piece belonged to.
    last: Option<usize>,
    /// A piece with an id of its own and nothing else was passed over while a call was open: what follows without an id may be
    /// of either.
    has_lost_id: bool,
    /// Whether what comes is told to a client, piece by piece.
    tells: bool,
}

/// Where a piece belongs.
enum Place {
    Known(usize),
    New,
    Nowhere,
}

impl Arguments {
    /// Returns what they are, or a piece of it, as JSON.
    pub fn text(&self) -> &str {
        match self {
            Self::None => "",
            Self::Text(text) | Self::Value(text) => text,
        }
    }

    /// Tells whether it can only be a later piece: arguments begin with a brace.
    fn goes_on(&self) -> bool {
        matches!(self, Self::Text(text) if !text.trim_start().is_empty() && !text.trim_start().starts_with('{'))
    }
}

impl CallPiece {
    fn says_nothing(&self) -> bool {
        self.name.is_empty() && self.arguments.text().is_empty()
    }
}

impl Calls {
    /// Calls that are told to a client as OpenAI's deltas too, if `tells`.
    pub fn new(tells: bool) -> Self {
        Self {
            tells,
            ..Self::default()
        }
    }

    /// Tells whether a tool was asked for.
    pub fn any(&self) -> bool {
        self.slots.iter().any(Slot::is_named)
    }

    /// Takes a piece; returns the number of its call, or none if it says nothing. `written`: its arguments as they came, where they
    /// are a text that may end in the middle of a character. An error says what is wrong with the answer.
    pub fn take(
        &mut self,
        mut piece: CallPiece,
        written: Option<&RawValue>,
        offers: Offers<'_>,
    ) -> Result<Option<usize>, &'static str> {
        let at = match self.place(&piece, offers)? {
            Place::Nowhere => {
                self.has_lost_id |= !piece.id.is_empty();
                skipped("tool_call");
                return Ok(None);
            }
            Place::Known(at) => at,
            Place::New if self.slots.len() >= MAX_CALLS => return Err(TOO_MANY),
            Place::New => {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }
        };
        self.last = Some(at);
        if let (Some(raw), Arguments::Text(text)) = (written, &mut piece.arguments) {
            *text = said(raw, &mut self.slots[at].seam).text;
        }
        self.slots[at].take(piece, self.tells)?;
        Ok(Some(at))
    }

    /// Takes the first piece of a call, where a server says that it is one; returns its number.
    pub fn begin(&mut self, piece: CallPiece) -> Result<usize, &'static str> {
        if self.slots.len() >= MAX_CALLS {
            return Err(TOO_MANY);
        }
        let at = self.slots.len();
        self.slots.push(Slot::default());
        self.last = Some(at);
        self.slots[at].take(piece, self.tells)?;
        Ok(at)
    }

    /// Notes that nothing more of the call `at` will come, as its server says.
    pub fn close(&mut self, at: usize) {
        self.slots[at].close();
    }

    fn place(&self, piece: &CallPiece, offers: Offers<'_>) -> Result<Place, &'static str> {
        if piece.id.is_empty() {
            return self.place_by_index(piece, offers);
        }
        let known = |slot: &&Slot| slot.has_id(&piece.id);
        let same_index = |slot: &Slot| slot.index == piece.index || slot.index.is_none() || piece.index.is_none();
        let of_id = self.slots.iter().rposition(|slot| known(&slot) && same_index(slot));
        if let Some(at) = of_id.or_else(|| self.slots.iter().rposition(|slot| known(&slot))) {
            let slot = &self.slots[at];
            // One id for several calls, which their numbers tell apart.
            let moved = !same_index(slot) && !piece.name.is_empty() && slot.is_named();
            let goes_on = slot.name() == piece.name && slot.is_open() && piece.arguments.goes_on();
            return Ok(if (moved && !goes_on) || slot.begins_anew(piece, offers) {
                Place::New
            } else {
                Place::Known(at)
            });
        }
        let near = match piece.index {
            Some(_) => self.slots.iter().rposition(|slot| slot.index == piece.index),
            None => self.last,
        };
        let Some(at) = near else { return Ok(Place::New) };
        let slot = &self.slots[at];
        if !slot.has_any_id() {
            // Its id comes late.
            return self.unless_ambiguous(at, piece, offers);
        }
        let same_name = piece.name.is_empty() || slot.name() == piece.name;
        // Some servers make up an id for every piece.
        match slot.is_open() && same_name {
            true if piece.says_nothing() => Ok(Place::Nowhere),
            true if piece.arguments.goes_on() && self.is_alone(at, piece) => Ok(Place::Known(at)),
            true if piece.arguments.goes_on() => Err(AMBIGUOUS),
            _ => Ok(Place::New),
        }
    }

    /// Places a piece without an id.
    fn place_by_index(&self, piece: &CallPiece, offers: Offers<'_>) -> Result<Place, &'static str> {
        let near = match piece.index {
            None => self.last,
            Some(_) => self
                .slots
                .iter()
                .rposition(|slot| slot.index == piece.index)
                .or_else(|| {
                    let last = self.slots.len().checked_sub(1)?;
                    self.slots[last].index.is_none().then_some(last)
                }),
        };
        match near {
            Some(at) => self.unless_ambiguous(at, piece, offers),
            None if piece.says_nothing() => Ok(Place::Nowhere),
            None => Ok(Place::New),
        }
    }

    /// Places a piece in the call `at`, unless it begins another one, or may belong to one that was begun before.
    fn unless_ambiguous(&self, at: usize, piece: &CallPiece, offers: Offers<'_>) -> Result<Place, &'static str> {
        let slot = &self.slots[at];
        let is_next = slot.has_all() && piece.arguments.text().trim_start().starts_with('{') && piece.name.is_empty();
        if is_next || slot.begins_anew(piece, offers) {
            Ok(Place::New)
        } else if piece.says_nothing() || (self.is_alone(at, piece) && !(self.has_lost_id && piece.id.is_empty())) {
            Ok(Place::Known(at))
        } else {
            Err(AMBIGUOUS)
        }
    }

    /// Tells whether no other call that `piece` may belong to waits for more.
    fn is_alone(&self, at: usize, piece: &CallPiece) -> bool {
        let may_be = |slot: &Slot| piece.index.is_none() || slot.index.is_none() || slot.index == piece.index;
        let others = self.slots.iter().enumerate().filter(|(other, _)| *other != at);
        !others.map(|(_, slot)| slot).any(|slot| may_be(slot) && slot.waits())
    }

    /// Notes that a client was sent the last piece of the call `at` as it came.
    pub fn passed(&mut self, at: usize) {
        self.slots[at].passed();
    }

    /// Tells whether a client that is sent `piece` of the call `at` as it stands reads in it what is meant.
    pub fn reads_well(&self, at: usize, piece: &CallPiece) -> bool {
        piece.index == Some(at as u64) && self.slots[at].reads_well(piece)
    }

    /// Writes OpenAI's delta of what a client was not told yet of the call `at`; none while its name is not known.
    pub fn tell(&mut self, at: usize) -> Option<String> {
        self.slots[at].tell(at)
    }

    /// Writes the deltas of what was kept back until the answer's end. `is_whole`: calls without arguments have none; `fills`: a
    /// client is told so by an empty object, also where the server has sent none.
    pub fn tell_rest(&mut self, is_whole: bool, fills: bool) -> Vec<String> {
        let slots = self.slots.iter_mut().enumerate();
        let told = slots.filter_map(|(at, slot)| {
            if is_whole {
                slot.settle(fills);
            }
            slot.tell(at)
        });
        told.collect()
    }

    /// Returns the whole calls of an answer that ended well.
    pub fn whole(&self) -> Result<Vec<Call>, &'static str> {
        // What is missing here may stand in the one that nothing but a name told apart from it. So may what is too much: pieces that
        // make no JSON together are not of one call, and then nobody knows whose the others are. Where names come behind arguments, a
        // call that has none may have lost them to another one.
        let may_be = |slot: &Slot, other: &Slot| {
            let same_index = slot.index == other.index || slot.index.is_none() || other.index.is_none();
            same_index && !(slot.has_any_id() && other.has_any_id())
        };
        let pairs = |slot: &Slot| {
            let mut others = self.slots.iter().filter(|other| !std::ptr::eq(slot, *other));
            let is_unsound = slot.is_open() || slot.is_broken();
            others
                .any(|other| may_be(slot, other) && (is_unsound || (slot.has_no_arguments() && other.is_named_late())))
        };
        if self.slots.iter().any(pairs) {
            return Err(AMBIGUOUS);
        }
        let mut calls = Vec::with_capacity(self.slots.len());
        for (number, slot) in self.slots.iter().enumerate() {
            match slot.whole(number) {
                Ok(Some(call)) => calls.push(call),
                Ok(None) => skipped("tool_call"),
                Err(error) => return Err(error),
            }
        }
        Ok(calls)
    }

    /// Tells whether every call has all of its arguments by their own word: they are an object that was closed.
    pub fn are_closed(&self) -> bool {
        self.slots.iter().all(Slot::is_closed)
    }
}
