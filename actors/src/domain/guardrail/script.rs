//! Marks of another script than the letter's, such as a Thai tone mark on a Latin letter.
//!
//! Real text does not contain them. They do not turn a word into another one, so they are ignored in comparisons. Marks
//! on letters of their own script count: a Thai, Hindi or Hebrew text is compared mark by mark.

use icu_properties::CodePointMapData;
use icu_properties::props::{GeneralCategory, GeneralCategoryGroup, Script};
use icu_properties::script::ScriptWithExtensions;

/// Returns whether a character is a mark: drawn on, around or beside another one, whatever its combining class.
pub(super) fn is_mark(c: char) -> bool {
    c >= '\u{300}' && GeneralCategoryGroup::Mark.contains(CodePointMapData::<GeneralCategory>::new().get(c))
}

/// Returns whether no script writes `mark` on `base`. Digits, signs and spaces are common to all scripts, so no
/// script's marks belong to them.
pub(super) fn is_foreign(base: char, mark: char) -> bool {
    let scripts = ScriptWithExtensions::new();
    let of_base = scripts.get_script_extensions_val(base);
    let shared = |script: Script| of_base.contains(&script) && !is_any(script);
    !scripts.get_script_extensions_val(mark).iter().any(shared)
}

fn is_any(script: Script) -> bool {
    matches!(script, Script::Common | Script::Inherited | Script::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_at_home_with_the_letters_of_its_script() {
        for (base, mark, foreign) in [
            ('b', '\u{e48}', true),
            ('b', '\u{93c}', true),
            ('b', '\u{903}', true),
            ('b', '\u{3099}', true),
            ('4', '\u{e48}', true),
            (' ', '\u{93f}', true),
            ('б', '\u{e31}', true),
            ('漢', '\u{3099}', true),
            ('ก', '\u{93c}', true),
            ('ก', '\u{e48}', false),
            ('\u{e31}', '\u{e48}', false),
            ('क', '\u{93c}', false),
            ('か', '\u{3099}', false),
            ('ー', '\u{3099}', false),
            ('ক', '\u{1cd0}', false),
            ('ب', '\u{64b}', false),
        ] {
            assert!(is_mark(mark));
            assert_eq!(is_foreign(base, mark), foreign, "{base:?} {mark:?}");
        }
    }
}
