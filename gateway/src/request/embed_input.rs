//! Parses the `input` of an embeddings request: texts are kept, tokens are only counted, and if there are too many
//! inputs none is kept. A list of a million small lists would otherwise take a hundred times its bytes.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, SeqAccess, Visitor};

use super::embed::{Inputs, MAX_INPUTS};

/// The inputs; `None` if there are more than [`MAX_INPUTS`].
pub(crate) struct WireInput(pub(crate) Option<Inputs>);

impl<'de> Deserialize<'de> for WireInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputVisitor)
    }
}

struct InputVisitor;

impl<'de> Visitor<'de> for InputVisitor {
    type Value = WireInput;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, texts or tokens")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<WireInput, E> {
        Ok(WireInput(Some(Inputs::Texts(vec![text.to_owned()]))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<WireInput, A::Error> {
        let mixed = || A::Error::custom("inputs of several kinds");
        let mut texts = Vec::new();
        let (mut batches, mut tokens) = (0, 0);
        match seq.next_element::<Item>()? {
            None => return Ok(WireInput(Some(Inputs::Texts(texts)))),
            Some(Item::Token) => {
                tokens = 1;
                while let Some(item) = seq.next_element::<Item>()? {
                    let Item::Token = item else { return Err(mixed()) };
                    tokens += 1;
                }
                return Ok(WireInput(Some(Inputs::Tokens { inputs: 1, tokens })));
            }
            Some(Item::Text(text)) => texts.push(text),
            Some(Item::Batch(more)) => (batches, tokens) = (1, more),
        }
        while texts.len().max(batches) <= MAX_INPUTS {
            match seq.next_element::<Item>()? {
                Some(Item::Text(text)) if batches == 0 => texts.push(text),
                Some(Item::Batch(more)) if texts.is_empty() => {
                    batches += 1;
                    tokens += more;
                }
                Some(_) => return Err(mixed()),
                None if batches == 0 => return Ok(WireInput(Some(Inputs::Texts(texts)))),
                None => {
                    let inputs = batches;
                    return Ok(WireInput(Some(Inputs::Tokens { inputs, tokens })));
                }
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(WireInput(None))
    }
}

/// One item of a list of inputs.
enum Item {
    Text(String),
    Token,
    /// A number of tokens.
    Batch(u64),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a token or tokens")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Text(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, token: u64) -> Result<Item, E> {
        u32::try_from(token)
            .map(|_| Item::Token)
            .map_err(|_| E::custom("no token has such a number"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Item, A::Error> {
        let mut tokens = 0;
        while seq.next_element::<u32>()?.is_some() {
            tokens += 1;
        }
        Ok(Item::Batch(tokens))
    }
}
