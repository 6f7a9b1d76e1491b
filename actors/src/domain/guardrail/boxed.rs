//! Letters, digits and words written as one symbol, such as 🅰, ❿ and 🆗.

/// Returns the one letter or digit that a symbol shows, if Unicode does not decompose the symbol to that alone.
pub(super) fn unboxed(c: char) -> char {
    let (first, symbols) = match c {
        'ı' => return 'i',
        'ȷ' => return 'j',
        '\u{24ff}' | '\u{1f10b}' | '\u{1f10c}' => return '0',
        '\u{1f18a}' => return 'p',
        '\u{2474}'..='\u{247c}' => ('1', '\u{2474}'), // digits in parentheses
        '\u{24f5}'..='\u{24fd}' => ('1', '\u{24f5}'), // digits in double circles
        '\u{2776}'..='\u{277e}' => ('1', '\u{2776}'), // digits in circles, three styles
        '\u{2780}'..='\u{2788}' => ('1', '\u{2780}'),
        '\u{278a}'..='\u{2792}' => ('1', '\u{278a}'),
        '\u{249c}'..='\u{24b5}' => ('a', '\u{249c}'), // letters in parentheses, small
        '\u{1f110}'..='\u{1f129}' => ('a', '\u{1f110}'), // and capital
        '\u{1f150}'..='\u{1f169}' => ('a', '\u{1f150}'), // letters in dark circles
        '\u{1f170}'..='\u{1f189}' => ('a', '\u{1f170}'), // letters in dark squares
        '\u{1f1e6}'..='\u{1f1ff}' => ('a', '\u{1f1e6}'), // regional indicators
        _ => return c,
    };
    let letter = u32::from(first) + (u32::from(c) - u32::from(symbols));
    char::from_u32(letter).unwrap_or(c)
}

/// Symbols and the word or number that each shows.
const WORDS: [(char, &str); 54] = [
    ('\u{247d}', "10"),
    ('\u{24eb}', "11"),
    ('\u{24ec}', "12"),
    ('\u{24ed}', "13"),
    ('\u{24ee}', "14"),
    ('\u{24ef}', "15"),
    ('\u{24f0}', "16"),
    ('\u{24f1}', "17"),
    ('\u{24f2}', "18"),
    ('\u{24f3}', "19"),
    ('\u{24f4}', "20"),
    ('\u{24fe}', "10"),
    ('\u{277f}', "10"),
    ('\u{2789}', "10"),
    ('\u{2793}', "10"),
    ('\u{1f18b}', "ic"),
    ('\u{1f18c}', "pa"),
    ('\u{1f18d}', "sa"),
    ('\u{1f18e}', "ab"),
    ('\u{1f18f}', "wc"),
    ('\u{1f191}', "cl"),
    ('\u{1f192}', "cool"),
    ('\u{1f193}', "free"),
    ('\u{1f194}', "id"),
    ('\u{1f195}', "new"),
    ('\u{1f196}', "ng"),
    ('\u{1f197}', "ok"),
    ('\u{1f198}', "sos"),
    ('\u{1f199}', "up!"),
    ('\u{1f19a}', "vs"),
    ('\u{1f19b}', "3d"),
    ('\u{1f19d}', "2k"),
    ('\u{1f19e}', "4k"),
    ('\u{1f19f}', "8k"),
    ('\u{1f1a3}', "60p"),
    ('\u{1f1a4}', "120p"),
    ('\u{1f1a5}', "d"),
    ('\u{1f1a6}', "hc"),
    ('\u{1f1a7}', "hdr"),
    ('\u{1f1a8}', "hi-res"),
    ('\u{1f1a9}', "lossless"),
    ('\u{1f1aa}', "shv"),
    ('\u{1f1ab}', "uhd"),
    ('\u{1f1ac}', "vod"),
    ('\u{1f3e7}', "atm"),
    ('\u{1f4af}', "100"),
    ('\u{1f519}', "back"),
    ('\u{1f51a}', "end"),
    ('\u{1f51b}', "on!"),
    ('\u{1f51c}', "soon"),
    ('\u{1f51d}', "top"),
    ('\u{1f51f}', "10"),
    ('\u{1f524}', "abc"),
    ('\u{1f6be}', "wc"),
];

/// Calls `each` with the characters that `c` shows.
pub(super) fn spell(c: char, mut each: impl FnMut(char)) {
    match WORDS.binary_search_by_key(&c, |(symbol, _)| *symbol) {
        Ok(at) => WORDS[at].1.chars().for_each(each),
        Err(_) => each(unboxed(c)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_in_the_order_in_which_they_are_searched() {
        assert!(WORDS.is_sorted_by_key(|(symbol, _)| *symbol));
        for (symbols, word) in [("🆗", "ok"), ("🅰🆎", "aab"), ("❿➀", "101"), ("x", "x")] {
            let mut spelt = String::new();
            symbols.chars().for_each(|c| spell(c, |c| spelt.push(c)));
            assert_eq!(spelt, word);
        }
    }
}
