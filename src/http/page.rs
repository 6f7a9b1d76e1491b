//! Pagination: limits, and cursors that are valid only for the list they came from.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::IntoParams;

use super::extract::invalid;
use super::problems::Problem;

/// Default entries per page.
const DEFAULT_LIMIT: usize = 20;
/// Maximum entries per page.
const MAX_LIMIT: usize = 100;

/// Maximum size of a page's entries as JSON; a larger entry is alone on its page.
pub const MAX_BYTES: usize = 1024 * 1024;

/// Returns the size of an entry as JSON, in bytes.
pub fn size(entry: &impl Serialize) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // An entry that cannot be serialised fails when the response is written.
    let _ = serde_json::to_writer(&mut count, entry);
    count.0
}

/// Truncates to the entries that fit on a page, at least one; returns whether there were more.
pub fn cut(entries: &mut Vec<impl Serialize>) -> bool {
    let mut bytes = 0;
    let fitting = entries.iter().take_while(|entry| {
        bytes += size(entry);
        bytes <= MAX_BYTES
    });
    let fitting = fitting.count().max(1);
    let more = fitting < entries.len();
    entries.truncate(fitting);
    more
}

/// The number of entries per page.
#[derive(Debug, Clone, Copy)]
pub struct Limit(usize);

impl Limit {
    pub fn get(self) -> usize {
        self.0
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(DEFAULT_LIMIT)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let limit = usize::deserialize(deserializer)?;
        if (1..=MAX_LIMIT).contains(&limit) {
            Ok(Self(limit))
        } else {
            Err(serde::de::Error::custom(format!("limit must be from 1 to {MAX_LIMIT}")))
        }
    }
}

/// The requested page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Maximum number of entries per page
    #[serde(default)]
    #[param(value_type = u8, minimum = 1, maximum = 100, default = 20)]
    pub limit: Limit,
    /// The `next_cursor` of the previous page
    pub cursor: Option<String>,
}

/// A page of a list.
#[derive(Debug, Serialize)]
pub struct Page<T> {
    pub data: Vec<T>,
    /// The cursor of the next page; `None` on the last one.
    pub next_cursor: Option<String>,
}

/// Encodes a cursor that is valid only for the list named `list`; the name must include the list's owner.
pub fn cursor(list: &str, position: &impl Serialize) -> String {
    let position = serde_json::to_string(position).unwrap_or_default();
    URL_SAFE_NO_PAD.encode(format!("{}{position}", mark(list)))
}

/// Decodes a cursor; refuses one of another list and anything else.
pub fn position<T: DeserializeOwned>(list: &str, cursor: &str) -> Result<T, Problem> {
    let read = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        serde_json::from_str(text.strip_prefix(&mark(list))?).ok()
    };
    read().ok_or_else(|| invalid("", "invalid cursor: pass the next_cursor of a page of this same list"))
}

fn mark(list: &str) -> String {
    hex::encode(&Sha256::digest(list)[..6])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_by_its_bytes() {
        for (sizes, fitting) in [
            (&[][..], 0),
            (&[10, 20], 2),
            (&[MAX_BYTES + 1], 1),
            (&[MAX_BYTES + 1, 1], 1),
            (&[1, MAX_BYTES + 1], 1),
            (&[MAX_BYTES / 2; 5], 1),
            (&[MAX_BYTES / 4 - 2; 5], 4),
        ] {
            let mut entries: Vec<String> = sizes.iter().map(|size| "x".repeat(*size)).collect();
            assert_eq!(cut(&mut entries), fitting < sizes.len(), "{sizes:?}");
            assert_eq!(entries.len(), fitting, "{sizes:?}");
        }
    }

    #[test]
    fn a_cursor_fits_its_own_list_only() {
        let text = cursor("a", &(3_u64, "x"));
        assert_eq!(position::<(u64, String)>("a", &text).unwrap(), (3, "x".to_owned()));
        assert!(position::<(u64, String)>("b", &text).is_err());
        assert!(position::<u64>("a", &text).is_err());
        assert!(position::<u64>("a", "%%").is_err());
        assert!(position::<u64>("a", "").is_err());
    }
}
