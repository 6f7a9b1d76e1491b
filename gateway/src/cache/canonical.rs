//! Canonical JSON and its SHA-256: two spellings of one value have the same hash.

use std::fmt;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A SHA-256 hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..6]))
    }
}

/// Hashes parts one after another, each preceded by its length, so that no two lists of parts collide.
#[derive(Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds a value in canonical form.
    pub fn json(&mut self, value: &Value) -> &mut Self {
        let mut out = Vec::new();
        write(value, &mut out);
        self.bytes(&out)
    }

    /// Returns the hash.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// Writes `value` with sorted keys, without spaces, and `1.0` as `1`.
fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            out.push(b'{');
            for (place, (name, value)) in members.into_iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                // Writing a string into memory does not fail.
                let _ = serde_json::to_writer(&mut *out, name);
                out.push(b':');
                write(value, out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Value::Number(number) => {
            let whole = number
                .as_f64()
                .filter(|value| number.is_f64() && value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0);
            match whole {
                Some(whole) => out.extend_from_slice(format!("{whole:.0}").as_bytes()),
                None => out.extend_from_slice(number.to_string().as_bytes()),
            }
        }
        other => {
            let _ = serde_json::to_writer(out, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(text: &str) -> Digest {
        let mut hasher = Hasher::default();
        hasher.json(&serde_json::from_str(text).unwrap());
        hasher.finish()
    }

    #[test]
    fn spelling_does_not_count_and_meaning_does() {
        for (a, b, same) in [
            (r#"{"a":1,"b":[2,"x"]}"#, r#"{ "b": [2, "\u0078"], "a": 1 }"#, true),
            (r#"{"a":1.0}"#, r#"{"a":1}"#, true),
            (r#"{"a":-0.0}"#, r#"{"a":0.5}"#, false),
            (r#"{"a":{"c":1,"b":2}}"#, r#"{"a":{"b":2,"c":1}}"#, true),
            (r#"[1,2]"#, r#"[2,1]"#, false),
            (r#"{"a":null}"#, r#"{}"#, false),
            (r#""1""#, r#"1"#, false),
        ] {
            assert_eq!(digest(a) == digest(b), same, "{a} {b}");
        }
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let of = |parts: &[&str]| {
            let mut hasher = Hasher::default();
            for part in parts {
                hasher.bytes(part.as_bytes());
            }
            hasher.finish()
        };
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["ab", ""]), of(&["ab"]));
        assert_ne!(digest(&json!("a").to_string()), of(&["a"]));
    }
}
