//! Suggestions for unknown names.

/// Returns the known name that is most similar to `written`, if it is similar enough to be a typo.
pub(super) fn near<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let wanted = plain(written);
    // One typo in a short name, up to three in a longer one.
    let most = (wanted.chars().count() / 3).clamp(1, 3);
    let distance = |name: &'a str| (strsim::damerau_levenshtein(&wanted, &plain(name)), name);
    let nearest = known.into_iter().map(distance).min();
    nearest.filter(|(distance, _)| *distance <= most).map(|(_, name)| name)
}

/// Returns the message for an unknown name, with a suggestion.
pub(super) fn unknown_name<'a>(what: &str, written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let meant = near(written, known).map(|name| format!("; did you mean {name:?}?"));
    format!("there is no {what} {written:?}{}", meant.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_understood_and_another_word_is_not() {
        let known = ["route", "small_route", "instructions", "tools", "api_key", "api_keys"];
        for (written, meant) in [
            ("rout", Some("route")),
            ("Route", Some("route")),
            ("ruote", Some("route")),
            ("small-route", Some("small_route")),
            ("smallroute", Some("small_route")),
            ("instuctions", Some("instructions")),
            ("tool", Some("tools")),
            ("apikey", Some("api_key")),
            ("api_kyes", Some("api_keys")),
            ("colour", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(near(written, known), meant, "{written}");
        }
        assert_eq!(near("x", []), None);
        assert_eq!(
            unknown_name("route", "defualt", ["default"]),
            "there is no route \"defualt\"; did you mean \"default\"?"
        );
        assert_eq!(
            unknown_name("route", "nowhere", ["default"]),
            "there is no route \"nowhere\""
        );
    }
}
