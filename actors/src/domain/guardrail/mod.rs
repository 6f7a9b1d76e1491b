//! Deny rules: forbidden literals in prompts, answers, tool arguments and tool results.
//!
//! [`stage`] is the table of what is checked where. [`pipeline`] turns what was found in a content into a verdict;
//! [`find`] finds what the deny rules forbid, and detectors (`ports::Detector`) find what else there is. [`OutputGuard`]
//! guards the text of an answer while it arrives.
//!
//! Text and literals are compared in one folded form (`fold`), so that another spelling of a literal still matches.

mod boxed;
pub mod content;
mod deny;
mod fold;
mod hold_back;
mod neutral;
mod output;
pub mod pipeline;
mod scan;
mod script;
pub mod stage;
mod value;

use std::sync::Arc;

pub use content::{Text, TextRole, Texts};
pub use deny::find;
pub use fold::MAX_IGNORABLE;
use fold::{Form, fold_literal, tagged};
pub use hold_back::{BlockedByRule, HoldBack};
pub use neutral::{EXCERPT_NOTICE, FACT_NOTICE, NOTICE, delimit, enclose, neutral};
pub use output::OutputGuard;
pub use pipeline::{Finding, Place, Verdict, blocked_by, judge, moved};
use scan::LiteralMatcher;
pub use stage::{ContentKind, OnFinding, Stage};

/// The action when a forbidden literal is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMatch {
    /// Block: the turn ends.
    Block,
    /// Redact: the literal is replaced by [`REDACTED`].
    Redact,
}

/// The cost of scanning one byte of text, relative to parsing one byte of JSON.
pub const COST_PER_BYTE: usize = 4;

/// The replacement for a redacted literal.
pub const REDACTED: &str = "[redacted]";

/// A deny rule: a literal, compared in the folded form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The name of the rule, for records.
    pub name: String,
    /// The forbidden text; never empty.
    pub literal: String,
    /// What to do when the literal is found.
    pub action: OnMatch,
    /// Whether confusable characters count as equal.
    pub confusables: bool,
}

/// The deny rules of a copilot or of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Rules for prompts.
    pub input: RuleSet,
    /// Rules for answers.
    pub output: RuleSet,
}

/// Rules that are searched together, in one pass over a text however many there are. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct RuleSet(Option<Arc<CompiledRules>>);

#[derive(Debug)]
struct CompiledRules {
    rules: Vec<Rule>,
    /// One for each form in which texts are compared.
    lanes: Vec<LiteralMatcher>,
}

/// Returns whether nothing of `literal` is left to compare: such a rule would match everywhere or nowhere.
pub fn is_blank(literal: &str) -> bool {
    fold_literal(literal, Form::Plain).trim().is_empty()
}

impl RuleSet {
    /// Compiles a set of rules. A rule with a blank literal, which would match everywhere, is dropped.
    ///
    /// # Panics
    /// If the literals add up to some gigabytes.
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        let rules: Vec<Rule> = rules.into_iter().filter(|rule| !is_blank(&rule.literal)).collect();
        if rules.is_empty() {
            return Self(None);
        }
        let all = 0..rules.len();
        let mut lanes = vec![LiteralMatcher::new(Form::Plain, &rules, all.clone())];
        if rules.iter().any(|rule| rule.confusables) {
            lanes.push(LiteralMatcher::new(
                Form::LookAlike,
                &rules,
                all.filter(|at| rules[*at].confusables),
            ));
        }
        Self(Some(Arc::new(CompiledRules { rules, lanes })))
    }

    /// Returns whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Lists the rules.
    pub fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.0.as_ref().map_or(&[][..], |compiled| &compiled.rules).iter()
    }

    /// Returns these rules and `others` combined.
    #[must_use]
    pub fn and(&self, others: &Self) -> Self {
        match (&self.0, &others.0) {
            (_, None) => self.clone(),
            (None, _) => others.clone(),
            _ => Self::new(self.iter().chain(others.iter()).cloned()),
        }
    }

    /// Returns a rule that blocks `text`, if there is one.
    pub fn blocking(&self, text: &str) -> Option<&Rule> {
        self.find(text, Rule::blocks)
    }

    /// Returns a rule whose literal is in `text`, whatever its action.
    pub fn matching(&self, text: &str) -> Option<&Rule> {
        self.find(text, |_| true)
    }

    fn find(&self, text: &str, wanted: impl Fn(&Rule) -> bool) -> Option<&Rule> {
        let compiled = self.0.as_ref()?;
        let within = |text: &str| {
            let found = compiled.lanes.iter().flat_map(|lane| lane.rules_in(text));
            found.map(|at| &compiled.rules[at]).find(|rule| wanted(rule))
        };
        // Tag characters are invisible, but models read them.
        within(text).or_else(|| within(&tagged(text)?))
    }
}

impl PartialEq for RuleSet {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for RuleSet {}

impl Rule {
    fn blocks(&self) -> bool {
        self.action == OnMatch::Block
    }
}

impl Rules {
    /// Returns these rules and `others` combined. Of two matches at the same position the longer one counts, whichever
    /// set it is from.
    #[must_use]
    pub fn and(&self, others: &Self) -> Self {
        Self {
            input: self.input.and(&others.input),
            output: self.output.and(&others.output),
        }
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
            confusables: false,
        }
    }

    fn set(rules: &[Rule]) -> RuleSet {
        RuleSet::new(rules.iter().cloned())
    }

    /// Returns what may be shown of a whole text, by checking every position.
    fn naive(rules: &[Rule], text: &str) -> Result<String, BlockedByRule> {
        let (bytes, mut shown, mut at) = (text.as_bytes(), String::new(), 0);
        while at < text.len() {
            let here = |rule: &&Rule| {
                let literal = rule.literal.as_bytes();
                bytes.len() - at >= literal.len() && bytes[at..at + literal.len()].eq_ignore_ascii_case(literal)
            };
            match rules.iter().filter(here).max_by_key(|rule| rule.literal.len()) {
                Some(rule) if rule.action == OnMatch::Block => {
                    return Err(BlockedByRule {
                        rule: rule.name.clone(),
                        released: shown,
                    });
                }
                Some(rule) => {
                    let within = |other: &&Rule| {
                        let literal = other.literal.as_bytes();
                        let is_at = |&place: &usize| {
                            bytes.len() - place >= literal.len()
                                && bytes[place..place + literal.len()].eq_ignore_ascii_case(literal)
                        };
                        other.action == OnMatch::Block && (at..at + rule.literal.len()).any(|place| is_at(&place))
                    };
                    if let Some(other) = rules.iter().find(within) {
                        return Err(BlockedByRule {
                            rule: other.name.clone(),
                            released: shown,
                        });
                    }
                    shown += REDACTED;
                    at += rule.literal.len();
                }
                None => {
                    let next = text[at..].chars().next().unwrap();
                    shown.push(next);
                    at += next.len_utf8();
                }
            }
        }
        Ok(shown)
    }

    fn run(rules: &[Rule], pieces: &[&str]) -> Result<String, BlockedByRule> {
        let mut window = HoldBack::new(&set(rules));
        let mut out = String::new();
        let mut whole = |step: Result<String, BlockedByRule>| match step {
            Ok(released) => {
                out += &released;
                Ok(out.clone())
            }
            Err(BlockedByRule { rule, released }) => Err(BlockedByRule {
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
        assert_eq!(HoldBack::new(&RuleSet::default()).push("abc"), Ok("abc".into()));
    }

    #[test]
    fn only_what_may_grow_into_a_literal_is_held() {
        let mut window = HoldBack::new(&set(&[rule("secret", OnMatch::Block)]));
        assert_eq!(window.push("my se"), Ok("my ".into()));
        assert_eq!(window.push("a of sec"), Ok("sea of ".into()));
        assert_eq!(window.push("RET"), Ok(String::new()), "a mark on the T may follow");
        assert_eq!(
            window.push("s"),
            Err(BlockedByRule {
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
    fn redacting_does_not_disarm_a_blocking_rule() {
        let around = [rule("my key is sk-", OnMatch::Redact), rule("sk-", OnMatch::Block)];
        let beside = [rule("id: sk", OnMatch::Redact), rule("sk-", OnMatch::Block)];
        let same = [rule("x", OnMatch::Redact), rule("X", OnMatch::Block)];
        for (rules, pieces, released) in [
            (&around, &["so my key is sk-1"][..], "so "),
            (&beside, &["so id: sk-1"], "so "),
            (&beside, &["so id: s", "k", "-", "1"], "so "),
            (&same, &["a x"], "a "),
        ] {
            let blocked = run(rules, pieces).unwrap_err();
            assert_eq!(blocked.released, released, "{pieces:?}");
        }
        assert_eq!(run(&beside, &["so id: s", "k", " is"]), Ok("so [redacted] is".into()));
    }

    #[test]
    fn a_blocked_prompt_names_its_rule() {
        let rules = [rule("no", OnMatch::Redact), rule("DROP TABLE", OnMatch::Block)];
        let rules = set(&rules);
        assert_eq!(
            rules.blocking("no; drop table x").map(|r| r.name.as_str()),
            Some("drop table")
        );
        assert_eq!(rules.blocking("drop the table"), None);
        // A redacting rule around a blocking one does not hide it.
        let nested = set(&[rule("my secret is", OnMatch::Redact), rule("secret", OnMatch::Block)]);
        assert_eq!(
            nested.blocking("my secret is out").map(|r| r.name.as_str()),
            Some("secret")
        );
        assert!(nested.matching("my secret is out").is_some());
    }

    #[test]
    fn a_spelling_of_a_literal_is_the_literal() {
        let plain = [rule("DROP TABLE", OnMatch::Redact), rule("cafe", OnMatch::Block)];
        for (text, shown) in [
            ("so d\u{200b}rop\n\ttable\u{200d}, x", "so [redacted], x"),
            ("ｄｒｏｐ\u{3000}ｔａｂｌｅ", "[redacted]"),
            ("a café, a cafe\u{301}", "a café, a cafe\u{301}"),
            ("droptable", "droptable"),
            ("дrop table", "дrop table"),
        ] {
            assert_eq!(run(&plain, &[text]).unwrap(), shown, "{text:?}");
            let pieces: Vec<String> = text.chars().map(String::from).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            assert_eq!(run(&plain, &pieces).unwrap(), shown, "{text:?}");
        }
        assert!(run(&plain, &["a ca", "fe"]).is_err());
        assert!(run(&plain, &["a cafe\u{337}s"]).is_err());
        let looks = [Rule {
            confusables: true,
            ..rule("Bluebird", OnMatch::Redact)
        }];
        assert_eq!(
            run(&looks, &["a BI", "uеb", "ïrd, a bird"]),
            Ok("a [redacted], a bird".into())
        );
        let inside = [Rule {
            confusables: true,
            ..rule("nope", OnMatch::Redact)
        }];
        assert_eq!(run(&inside, &["mope, ｎope"]), Ok("mope, [redacted]".into()));
    }

    #[test]
    fn a_literal_may_end_within_a_character() {
        for (literal, text) in [("ef", "eﬁ"), ("ef", "eﬃ"), ("es", "eß"), ("éa", "é🆎"), ("to", "t🆗")] {
            let rules = [rule(literal, OnMatch::Redact)];
            let pieces: Vec<String> = format!("x{text}x").chars().map(String::from).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            assert_eq!(run(&rules, &pieces), Ok("x[redacted]x".into()), "{text}");
        }
    }

    #[test]
    fn a_literal_in_tag_characters_is_the_literal() {
        let tags = |text: &str| -> String {
            let tag = |c: char| char::from_u32(0xe_0000 + u32::from(c)).unwrap();
            text.chars().map(tag).collect()
        };
        let rules = [rule("Bluebird and its friends", OnMatch::Block)];
        let hidden = tags("a BLUEBIRD and its friends");
        let apart: String = hidden.chars().flat_map(|c| ['x', c]).collect();
        for text in [&hidden, &format!("hi{hidden}, you"), &apart] {
            assert!(set(&rules).blocking(text).is_some(), "{text:?}");
        }
        assert!(set(&rules).blocking(&tags("a bird and its friends")).is_none());
        assert_eq!(run(&rules, &["hi", &hidden, ", you"]), Ok("hi, you".into()));
    }

    #[test]
    fn white_space_of_any_length_is_one_space_and_is_shown_as_it_is() {
        let rules = [rule("drop table", OnMatch::Redact), rule("a b c", OnMatch::Block)];
        for between in [" ".repeat(34), "\n".repeat(5_000), " \t\u{200b}\u{3000}".repeat(700)] {
            let text = format!("x drop{between}TABLE, drop{between}it{between}a{between}b{between}d");
            let shown = format!("x [redacted], drop{between}it{between}a{between}b{between}d");
            assert_eq!(run(&rules, &[&text]), Ok(shown.clone()));
            let pieces: Vec<String> = text.chars().map(String::from).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            assert_eq!(run(&rules, &pieces), Ok(shown));
            assert!(run(&rules, &[&format!("a{between}b{between}c")]).is_err());
            assert!(set(&rules).matching(&format!("drop{between}table")).is_some());
        }
    }

    /// While a literal may still continue after white space, scanning the held text costs the same however much white
    /// space there is.
    #[test]
    fn white_space_that_is_held_back_is_counted() {
        let mut window = HoldBack::new(&set(&[rule("drop table", OnMatch::Redact)]));
        assert_eq!(window.push("x drop"), Ok("x ".into()));
        for _ in 0..2_000 {
            assert_eq!(window.push(&" ".repeat(100)), Ok(String::new()));
        }
        assert!(window.held_bytes() < 1_000, "{}", window.held_bytes());
        assert_eq!(window.push("it "), Ok(format!("drop{}it ", " ".repeat(200_000))));
    }

    #[test]
    fn a_set_is_searched_in_chunks() {
        let rules = set(&[rule("needle", OnMatch::Block)]);
        for before in [32_760, 32_768, 32_774, 65_536, 100_000] {
            let text = format!("{}NEE\u{200b}DLE{}", "x".repeat(before), "y".repeat(50_000));
            assert!(rules.blocking(&text).is_some(), "{before}");
        }
        assert!(rules.blocking(&"needl ".repeat(50_000)).is_none());
    }

    #[test]
    fn a_blank_literal_is_no_rule() {
        for literal in ["", " ", "\u{200b}", "\u{301}", "\n\u{a0}"] {
            assert!(is_blank(literal), "{literal:?}");
            assert!(set(&[rule(literal, OnMatch::Block)]).is_empty());
        }
        assert!(!is_blank("-"));
    }

    proptest! {
        /// However a text is split, the result is that of the whole text.
        #[test]
        fn cutting_changes_nothing(
            words in prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "é", "aab", "ba", "x", "⠃", "ก่", "नि"]), 0..20),
            cuts in prop::collection::vec(0usize..64, 0..10),
            literals in prop::collection::vec(prop::sample::select(vec!["ab", "aba", "bé", "aabx", "b"]), 0..4),
            blocks in prop::collection::vec(any::<bool>(), 4),
        ) {
            let text = words.concat();
            let action = |blocks: bool| if blocks { OnMatch::Block } else { OnMatch::Redact };
            let rules: Vec<Rule> = literals.iter().zip(&blocks).map(|(l, blocks)| rule(l, action(*blocks))).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| text.is_char_boundary(*c)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();

            let mut shown = String::new();
            let mut window = HoldBack::new(&set(&rules));
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
            match naive(&rules, &text) {
                Ok(whole) => { prop_assert!(!blocked); prop_assert_eq!(&shown, &whole); }
                Err(stop) => { prop_assert!(blocked); prop_assert_eq!(&shown, &stop.released); }
            }
            for rule in rules.iter().filter(|rule| rule.blocks()) {
                prop_assert!(!shown.contains(&rule.literal));
            }
        }

        /// In any spelling, the text released in pieces equals that of the whole text and contains no literal.
        #[test]
        fn spellings_and_cuts_change_nothing(
            words in prop::collection::vec(prop::sample::select(SPELLINGS.to_vec()), 0..24),
            every in 1usize..6,
            literals in prop::collection::vec(prop::sample::select(vec![
                "ab", "a b", "é", "éa", "ss", "각", "fin", "в", "m", "ガ", "i", "éı", "ก่", "กา", "ก b", "नि", "न a", "\u{e31}b", "ok",
            ]), 1..4),
            blocks in prop::collection::vec(any::<bool>(), 4),
            confusables in prop::collection::vec(any::<bool>(), 4),
        ) {
            let text = words.concat();
            let rules: Vec<Rule> = literals.iter().enumerate().map(|(at, literal)| Rule {
                confusables: confusables[at],
                ..rule(literal, if blocks[at] { OnMatch::Block } else { OnMatch::Redact })
            }).collect();
            let chars: Vec<char> = text.chars().collect();
            let pieces: Vec<String> = chars.chunks(every).map(|piece| piece.iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = run(&rules, &[&text]);
            prop_assert_eq!(&run(&rules, &pieces), &whole);
            let shown = match &whole {
                Ok(shown) => shown,
                Err(blocked) => &blocked.released,
            };
            let shown = shown.replace(REDACTED, "\u{e000}");
            let set = set(&rules);
            prop_assert_eq!(set.matching(&shown), None, "{:?}", shown);
            if set.matching(&text).is_none() {
                prop_assert_eq!(whole, Ok(fold::IgnorableFilter::default().pass(&text).into_owned()));
            }
        }
    }

    const SPELLINGS: [&str; 69] = [
        "a",
        "b",
        "A",
        "ａ",
        "𝐛",
        " ",
        "\n",
        "\u{a0}",
        "\u{200b}",
        "\u{ad}",
        "\u{301}",
        "\u{337}",
        "é",
        "e",
        "É",
        "s",
        "ß",
        "ﬁ",
        "n",
        "m",
        "r",
        "в",
        "B",
        "\u{1100}",
        "\u{1161}",
        "\u{11a8}",
        "각",
        "가",
        "ｶ",
        "ﾞ",
        "ガ",
        "カ",
        "\u{3099}",
        "\u{34f}",
        "\u{fe0f}",
        "f",
        "i",
        "x",
        "\u{e0061}",
        "🏴",
        "\u{488}",
        "\u{20dd}",
        "\u{5b0}",
        "\u{711}",
        "\u{1d167}",
        "\u{302a}",
        "\u{a670}",
        "\u{fdd0}",
        "\u{ffff}",
        "\u{2800}",
        "🅰",
        "⒜",
        "\u{1f1e7}",
        "ı",
        "\u{94d}",
        "ก",
        "\u{e48}",
        "\u{e31}",
        "า",
        "न",
        "\u{93f}",
        "\u{93c}",
        "\u{1b35}",
        "🆗",
        "🆎",
        "                                                            ",
        "\u{3000}\u{200b}\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n",
        "\u{903}\u{93c}\u{93f}\u{e31}\u{e48}\u{e49}\u{903}\u{93c}\u{93f}",
        "\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}\u{200b}",
    ];
}
