//! Guardrails on text: deny rules for prompts, and a hold-back window for streamed answers.
//!
//! Invariant: a forbidden literal never reaches a reader, however the provider cuts its stream into pieces. Text is
//! released only once no forbidden literal can begin in it and end in a later piece.

/// What happens where a forbidden literal is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMatch {
    /// The turn ends.
    Block,
    /// The literal is replaced by [`REDACTED`].
    Redact,
}

/// What stands in place of a redacted literal.
pub const REDACTED: &str = "[redacted]";

/// A deny rule: a literal, compared without regard to ASCII case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Name of the rule, for the record.
    pub name: String,
    /// The forbidden text; never empty.
    pub literal: String,
    /// What happens where it is found.
    pub action: OnMatch,
}

/// The deny rules of a copilot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Rules on prompts.
    pub input: Vec<Rule>,
    /// Rules on answers.
    pub output: Vec<Rule>,
}

/// A place where a rule applies.
struct Match<'a> {
    start: usize,
    rule: &'a Rule,
}

/// Finds the leftmost match, the longest one if several begin there.
fn first_match<'a>(text: &str, rules: &'a [Rule]) -> Option<Match<'a>> {
    let bytes = text.as_bytes();
    (0..bytes.len()).find_map(|start| {
        rules
            .iter()
            .filter(|rule| begins_with(&bytes[start..], rule.literal.as_bytes()))
            .max_by_key(|rule| rule.literal.len())
            .map(|rule| Match { start, rule })
    })
}

fn begins_with(text: &[u8], literal: &[u8]) -> bool {
    !literal.is_empty() && text.len() >= literal.len() && text[..literal.len()].eq_ignore_ascii_case(literal)
}

/// Returns the first rule on `text` that blocks it.
pub fn blocking_rule<'a>(text: &str, rules: &'a [Rule]) -> Option<&'a Rule> {
    let blocking = |rule: &&Rule| rule.action == OnMatch::Block;
    rules
        .iter()
        .filter(blocking)
        .find(|rule| first_match(text, std::slice::from_ref(rule)).is_some())
}

/// The window behind which streamed text is released.
#[derive(Debug)]
pub struct HoldBack {
    rules: Vec<Rule>,
    held: String,
    /// Names of redacting rules that were applied, each once.
    redactions: Vec<String>,
}

/// A blocking rule matched; nothing of the match or after it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Name of the rule.
    pub rule: String,
    /// What stood before the match and may still be released.
    pub released: String,
}

impl HoldBack {
    /// Opens a window with the output rules of a copilot.
    pub fn new(rules: &[Rule]) -> Self {
        Self {
            rules: rules.to_vec(),
            held: String::new(),
            redactions: Vec::new(),
        }
    }

    /// Takes a piece of the answer and returns what may be released now, possibly nothing.
    pub fn push(&mut self, piece: &str) -> Result<String, Blocked> {
        self.held.push_str(piece);
        self.release(false)
    }

    /// Releases the rest at the end of the answer.
    pub fn finish(&mut self) -> Result<String, Blocked> {
        self.release(true)
    }

    /// Names the redacting rules that were applied.
    pub fn redactions(&self) -> &[String] {
        &self.redactions
    }

    fn release(&mut self, end: bool) -> Result<String, Blocked> {
        let mut released = String::new();
        loop {
            // A longer literal that may still grow out of an earlier position has precedence over a match behind it.
            let keep_from = if end { self.held.len() } else { self.unfinished() };
            match first_match(&self.held, &self.rules) {
                Some(found) if found.start < keep_from || end => {
                    released.push_str(&self.held[..found.start]);
                    let (rule, length) = (found.rule.clone(), found.rule.literal.len());
                    if rule.action == OnMatch::Block {
                        self.held.clear();
                        return Err(Blocked {
                            rule: rule.name,
                            released,
                        });
                    }
                    released.push_str(REDACTED);
                    self.held.drain(..found.start + length);
                    if !self.redactions.contains(&rule.name) {
                        self.redactions.push(rule.name);
                    }
                }
                _ => {
                    released.extend(self.held.drain(..keep_from));
                    return Ok(released);
                }
            }
        }
    }

    /// Returns where the longest suffix begins that is a proper prefix of a forbidden literal.
    fn unfinished(&self) -> usize {
        let held = self.held.as_bytes();
        let longest = self
            .rules
            .iter()
            .map(|rule| rule.literal.len())
            .max()
            .unwrap_or(0)
            .saturating_sub(1);
        let from = held.len().saturating_sub(longest);
        (from..held.len())
            .filter(|&start| self.held.is_char_boundary(start))
            .find(|&start| {
                let suffix = &held[start..];
                self.rules.iter().any(|rule| {
                    let literal = rule.literal.as_bytes();
                    literal.len() > suffix.len() && literal[..suffix.len()].eq_ignore_ascii_case(suffix)
                })
            })
            .unwrap_or(held.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(literal: &str, action: OnMatch) -> Rule {
        Rule {
            name: literal.to_lowercase(),
            literal: literal.to_owned(),
            action,
        }
    }

    fn run(rules: &[Rule], pieces: &[&str]) -> Result<String, Blocked> {
        let mut window = HoldBack::new(rules);
        let mut out = String::new();
        let mut whole = |step: Result<String, Blocked>| match step {
            Ok(released) => {
                out += &released;
                Ok(out.clone())
            }
            Err(Blocked { rule, released }) => Err(Blocked {
                rule,
                released: format!("{out}{released}"),
            }),
        };
        for piece in pieces {
            whole(window.push(piece))?;
        }
        whole(window.finish())
    }

    #[test]
    fn text_without_rules_is_released_at_once() {
        assert_eq!(HoldBack::new(&[]).push("abc"), Ok("abc".into()));
    }

    #[test]
    fn only_what_may_grow_into_a_literal_is_held() {
        let mut window = HoldBack::new(&[rule("secret", OnMatch::Block)]);
        assert_eq!(window.push("my se"), Ok("my ".into()));
        assert_eq!(window.push("a of sec"), Ok("sea of ".into()));
        assert_eq!(
            window.push("RET"),
            Err(Blocked {
                rule: "secret".into(),
                released: String::new()
            })
        );
    }

    #[test]
    fn redaction_goes_on_behind_the_match() {
        let rules = [rule("abc", OnMatch::Redact), rule("abcdef", OnMatch::Redact)];
        assert_eq!(run(&rules, &["xab", "cdy"]), Ok("x[redacted]dy".into()));
        assert_eq!(run(&rules, &["xab", "cde", "f!"]), Ok("x[redacted]!".into()));
    }

    #[test]
    fn a_blocked_prompt_names_its_rule() {
        let rules = [rule("no", OnMatch::Redact), rule("DROP TABLE", OnMatch::Block)];
        assert_eq!(
            blocking_rule("no; drop table x", &rules).map(|r| r.name.as_str()),
            Some("drop table")
        );
        assert_eq!(blocking_rule("drop the table", &rules), None);
    }

    proptest! {
        /// However a text is cut into pieces, the result is that of the whole text.
        #[test]
        fn cutting_changes_nothing(
            words in prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "é", "aab", "ba", "x"]), 0..20),
            cuts in prop::collection::vec(0usize..64, 0..10),
            literals in prop::collection::vec(prop::sample::select(vec!["ab", "aba", "bé", "aabx", "b"]), 0..4),
            block in any::<bool>(),
        ) {
            let text = words.concat();
            let action = if block { OnMatch::Block } else { OnMatch::Redact };
            let rules: Vec<Rule> = literals.iter().map(|l| rule(l, action)).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| text.is_char_boundary(*c)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();

            let mut shown = String::new();
            let mut window = HoldBack::new(&rules);
            let mut blocked = false;
            for piece in pieces {
                match window.push(piece) {
                    Ok(out) => shown += &out,
                    Err(stop) => { shown += &stop.released; blocked = true; break; }
                }
            }
            if !blocked {
                match window.finish() {
                    Ok(out) => shown += &out,
                    Err(stop) => { shown += &stop.released; blocked = true; }
                }
            }
            match run(&rules, &[&text]) {
                Ok(whole) => { prop_assert!(!blocked); prop_assert_eq!(&shown, &whole); }
                Err(stop) => { prop_assert!(blocked); prop_assert_eq!(&shown, &stop.released); }
            }
            if block {
                for literal in literals {
                    prop_assert!(!shown.contains(literal));
                }
            }
        }
    }
}
