//! Assembles the tool calls of one answer.
//!
//! Servers do not agree on how they tell parallel calls apart: by an index, by an id, by both, or by one of them that
//! is always the same. Here the id decides if there is one, then the index, then the order. A name may come late, in
//! pieces, or in every piece; arguments may come as an object.
//!
//! Invariant: no call ever gets a piece of another one's arguments. If a piece could belong to more than one call, the
//! answer fails. Pieces of several calls in turns, with neither ids nor indexes, may read exactly like those of other
//! calls one after the other; no reader can tell.

mod slot;
#[cfg(test)]
mod tests;

use serde_json::value::RawValue;

use super::lenient::{PendingSurrogate, Writer, said, skipped};
use slot::Slot;

/// Most calls of one step.
pub const MAX_CALLS: usize = 128;

const TOO_MANY: &str = "the model called too many tools at once";
const AMBIGUOUS: &str = "the provider sent a piece of arguments that may belong to several tool calls";
const NAMELESS: &str = "the provider sent arguments for a tool that it did not name";
const TWICE: &str = "the provider sent two sets of arguments for one tool call";

/// A piece of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallPiece {
    pub index: Option<u64>,
    /// Empty if absent.
    pub id: String,
    /// The name, or a piece of it; empty if absent.
    pub name: String,
    /// The arguments, or a piece of them.
    pub arguments: Arguments,
}

/// Arguments as received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Arguments {
    #[default]
    None,
    /// A piece of their JSON.
    Text(String),
    /// All of them, as a JSON value and not as a text with JSON in it.
    Value(String),
}

/// A complete call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Counted from 0.
    pub number: usize,
    pub name: String,
    /// The arguments' JSON, as the model wrote it; empty if it wrote none.
    pub arguments: String,
}

/// Returns whether a tool of this name was offered; `None` if that is unknown.
pub type Offers<'a> = &'a dyn Fn(&str) -> Option<bool>;

/// The calls of one answer.
#[derive(Debug, Default)]
pub struct Calls {
    slots: Vec<Slot>,
    /// The call that the last piece belonged to.
    last: Option<usize>,
    /// A piece with a new id and nothing else was ignored while a call was open: what follows without an id may belong
    /// to either.
    has_lost_id: bool,
    /// Whether pieces are passed on to a client as they come.
    tells: bool,
}

/// Where a piece belongs.
enum Assignment {
    Known(usize),
    New,
    Nowhere,
}

impl Arguments {
    /// The arguments, or a piece of them, as JSON.
    pub fn text(&self) -> &str {
        match self {
            Self::None => "",
            Self::Text(text) | Self::Value(text) => text,
        }
    }

    /// Returns whether it can only be a later piece: arguments begin with a brace.
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
    /// Creates an empty set of calls; if `tells`, they are also passed on to a client as OpenAI's deltas.
    pub fn new(tells: bool) -> Self {
        Self {
            tells,
            ..Self::default()
        }
    }

    /// Returns whether any tool was called.
    pub fn any(&self) -> bool {
        self.slots.iter().any(Slot::is_named)
    }

    /// Adds a piece; returns the number of its call, or `None` if it is empty. `written`: its arguments as received,
    /// where they are a text that may end in the middle of a character. An error says what is wrong with the answer.
    pub fn take(
        &mut self,
        mut piece: CallPiece,
        written: Option<&RawValue>,
        offers: Offers<'_>,
    ) -> Result<Option<usize>, &'static str> {
        let at = match self.place(&piece, offers)? {
            Assignment::Nowhere => {
                self.has_lost_id |= !piece.id.is_empty();
                skipped("tool_call");
                return Ok(None);
            }
            Assignment::Known(at) => at,
            Assignment::New if self.slots.len() >= MAX_CALLS => return Err(TOO_MANY),
            Assignment::New => {
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

    /// Adds the first piece of a call, where the server marks it as such; returns its number.
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

    /// Records that the server has ended call `at`.
    pub fn close(&mut self, at: usize) {
        self.slots[at].close();
    }

    fn place(&self, piece: &CallPiece, offers: Offers<'_>) -> Result<Assignment, &'static str> {
        if piece.id.is_empty() {
            return self.place_by_index(piece, offers);
        }
        let known = |slot: &&Slot| slot.has_id(&piece.id);
        let same_index = |slot: &Slot| slot.index == piece.index || slot.index.is_none() || piece.index.is_none();
        let of_id = self.slots.iter().rposition(|slot| known(&slot) && same_index(slot));
        if let Some(at) = of_id.or_else(|| self.slots.iter().rposition(|slot| known(&slot))) {
            let slot = &self.slots[at];
            // One id for several calls, which their indexes tell apart.
            let moved = !same_index(slot) && !piece.name.is_empty() && slot.is_named();
            let goes_on = slot.name() == piece.name && slot.is_open() && piece.arguments.goes_on();
            return Ok(if (moved && !goes_on) || slot.begins_anew(piece, offers) {
                Assignment::New
            } else {
                Assignment::Known(at)
            });
        }
        let near = match piece.index {
            Some(_) => self.slots.iter().rposition(|slot| slot.index == piece.index),
            None => self.last,
        };
        let Some(at) = near else { return Ok(Assignment::New) };
        let slot = &self.slots[at];
        if !slot.has_any_id() {
            // The id comes late.
            return self.unless_ambiguous(at, piece, offers);
        }
        let same_name = piece.name.is_empty() || slot.name() == piece.name;
        // Some servers invent an id for every piece.
        match slot.is_open() && same_name {
            true if piece.says_nothing() => Ok(Assignment::Nowhere),
            true if piece.arguments.goes_on() && self.is_alone(at, piece) => Ok(Assignment::Known(at)),
            true if piece.arguments.goes_on() => Err(AMBIGUOUS),
            _ => Ok(Assignment::New),
        }
    }

    /// Finds the call of a piece without an id.
    fn place_by_index(&self, piece: &CallPiece, offers: Offers<'_>) -> Result<Assignment, &'static str> {
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
            None if piece.says_nothing() => Ok(Assignment::Nowhere),
            None => Ok(Assignment::New),
        }
    }

    /// Assigns a piece to call `at`, unless it begins another call, or may belong to one that began earlier.
    fn unless_ambiguous(&self, at: usize, piece: &CallPiece, offers: Offers<'_>) -> Result<Assignment, &'static str> {
        let slot = &self.slots[at];
        let is_next = slot.has_all() && piece.arguments.text().trim_start().starts_with('{') && piece.name.is_empty();
        if is_next || slot.begins_anew(piece, offers) {
            Ok(Assignment::New)
        } else if piece.says_nothing() || (self.is_alone(at, piece) && !(self.has_lost_id && piece.id.is_empty())) {
            Ok(Assignment::Known(at))
        } else {
            Err(AMBIGUOUS)
        }
    }

    /// Returns whether no other call that `piece` may belong to is incomplete.
    fn is_alone(&self, at: usize, piece: &CallPiece) -> bool {
        let may_be = |slot: &Slot| piece.index.is_none() || slot.index.is_none() || slot.index == piece.index;
        let others = self.slots.iter().enumerate().filter(|(other, _)| *other != at);
        !others.map(|(_, slot)| slot).any(|slot| may_be(slot) && slot.waits())
    }

    /// Records that the last piece of call `at` was passed on to the client unchanged.
    pub fn passed(&mut self, at: usize) {
        self.slots[at].passed();
    }

    /// Returns whether a client that gets `piece` of call `at` unchanged will read it correctly.
    pub fn reads_well(&self, at: usize, piece: &CallPiece) -> bool {
        piece.index == Some(at as u64) && self.slots[at].reads_well(piece)
    }

    /// Writes OpenAI's delta of what the client does not have yet of call `at`; `None` while its name is unknown.
    pub fn tell(&mut self, at: usize) -> Option<String> {
        self.slots[at].tell(at)
    }

    /// Writes the deltas of what was held back until the answer's end. `is_whole`: calls without arguments have none;
    /// `fills`: the client then gets an empty object, even if the server has sent none.
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

    /// Returns the calls of an answer that ended successfully.
    pub fn whole(&self) -> Result<Vec<Call>, &'static str> {
        // What is missing in one call may have been added to another that only a name told apart from it. So may what
        // is too much: if pieces do not form JSON together, they are not all of one call, and then the origin of the
        // others is unknown. Where names come after arguments, a call without any may have lost them to another one.
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

    /// Returns whether the arguments of every call are complete: an object that was closed.
    pub fn are_closed(&self) -> bool {
        self.slots.iter().all(Slot::is_closed)
    }
}
