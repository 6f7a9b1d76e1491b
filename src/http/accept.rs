//! The `Accept` header (RFC 9110, section 12.5.1).
//!
//! Ranges that are no media ranges are skipped: Java's own client sends `*; q=.2` beside valid ones. This is why the
//! crate `headers-accept` does not serve here: it then rejects the whole header.

use axum::http::{HeaderMap, header};
use mime::Mime;

/// The media ranges that a client accepts.
#[derive(Debug)]
pub struct Accept(Vec<Range>);

#[derive(Debug)]
struct Range {
    media: Mime,
    /// From 0 (refused) to 1.
    quality: f32,
}

/// How much a client wants a media type: its quality, then how early its range stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preference {
    quality: f32,
    place: usize,
}

impl Preference {
    /// Whether this one comes first.
    pub fn is_before(self, other: Self) -> bool {
        self.quality > other.quality || (self.quality >= other.quality && self.place < other.place)
    }
}

impl Accept {
    /// Reads the header; `None` without one, which accepts everything.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::ACCEPT).iter().peekable();
        values.peek()?;
        let texts = values.filter_map(|value| value.to_str().ok());
        let ranges = texts.flat_map(|text| text.split(',')).filter_map(range);
        Some(Self(ranges.collect()))
    }

    /// Returns how much `media` is wanted, by the most specific range that includes it; `None` if it is refused.
    pub fn preference(&self, media: &Mime) -> Option<Preference> {
        let essence = (media.type_(), media.subtype());
        self.most_specific(&[essence, (media.type_(), mime::STAR), (mime::STAR, mime::STAR)])
    }

    /// As [`Self::preference`], for a type that has to be asked for: `*/*` does not.
    pub fn named_preference(&self, media: &Mime) -> Option<Preference> {
        self.most_specific(&[(media.type_(), media.subtype()), (media.type_(), mime::STAR)])
    }

    fn most_specific(&self, wanted: &[(mime::Name<'_>, mime::Name<'_>)]) -> Option<Preference> {
        let is = |name: &(mime::Name<'_>, mime::Name<'_>)| {
            let mut ranges = self.0.iter();
            ranges.position(|range| (range.media.type_(), range.media.subtype()) == *name)
        };
        let place = wanted.iter().find_map(is)?;
        let quality = self.0[place].quality;
        (quality > 0.0).then_some(Preference { quality, place })
    }
}

fn range(text: &str) -> Option<Range> {
    let media: Mime = text.trim().parse().ok()?;
    let quality = media.get_param("q").map_or(1.0, |q| q.as_str().parse().unwrap_or(0.0));
    Some(Range { media, quality })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn accept(text: &'static str) -> Accept {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(text));
        Accept::of(&headers).unwrap()
    }

    #[test]
    fn the_most_specific_range_decides() {
        for (text, wanted, named) in [
            ("*/*", true, false),
            ("application/json", true, true),
            ("Application/*;q=0.5", true, true),
            ("text/html, application/json;q=0.1", true, true),
            ("application/json; charset=utf-8; q=0.1", true, true),
            ("application/json;q=0", false, false),
            ("application/json;q=0.000, */*", false, false),
            ("application/*;q=0, */*", false, false),
            ("application/json;q=high", false, false),
            ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", true, false),
            ("text/html", false, false),
            ("json", false, false),
            ("", false, false),
        ] {
            let found = accept(text);
            assert_eq!(found.preference(&mime::APPLICATION_JSON).is_some(), wanted, "{text}");
            assert_eq!(
                found.named_preference(&mime::APPLICATION_JSON).is_some(),
                named,
                "{text}"
            );
        }
        assert!(Accept::of(&HeaderMap::new()).is_none());
    }

    #[test]
    fn all_lines_of_the_header_count() {
        let mut headers = HeaderMap::new();
        headers.append(header::ACCEPT, HeaderValue::from_static("text/html"));
        headers.append(header::ACCEPT, HeaderValue::from_static("text/csv"));
        assert!(Accept::of(&headers).unwrap().preference(&mime::TEXT_CSV).is_some());
    }

    #[test]
    fn quality_comes_before_place() {
        for (text, first) in [
            ("text/html, application/json", false),
            ("application/json, text/html", true),
            ("text/html;q=0.9, application/json", true),
            ("text/html;q=0.2, application/json;q=0.1", false),
        ] {
            let found = accept(text);
            let [json, html] =
                [&mime::APPLICATION_JSON, &mime::TEXT_HTML].map(|media| found.preference(media).unwrap());
            assert_eq!(json.is_before(html), first, "{text}");
            assert_eq!(html.is_before(json), !first, "{text}");
        }
    }
}
