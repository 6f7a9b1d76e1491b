//! A scan of JSON text, byte by byte, that knows which bytes are inside strings.

/// Tells the bytes of strings from the others. The result is meaningless for text that is not JSON.
#[derive(Debug, Clone, Copy, Default)]
pub struct StringScan {
    in_string: bool,
    is_escaped: bool,
}

impl StringScan {
    /// Reads the next byte; returns whether it stands outside of strings. A string's first quote does.
    #[inline]
    pub fn is_outside(&mut self, byte: u8) -> bool {
        if !self.in_string {
            self.in_string = byte == b'"';
            return true;
        }
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' => self.is_escaped = true,
            b'"' => self.in_string = false,
            _ => {}
        }
        false
    }

    /// Whether the bytes read so far end within a string.
    pub fn in_string(&self) -> bool {
        self.in_string
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_quotes_do_not_end_a_string() {
        for (text, expected) in [
            (r#"{"a":1}"#, r#"{":1}"#),
            (r#"["\"",2]"#, r#"[",2]"#),
            (r#"["\\",2]"#, r#"[",2]"#),
            (r#"["\\\"",2]"#, r#"[",2]"#),
            (r#"["é{}",2]"#, r#"[",2]"#),
        ] {
            let mut scan = StringScan::default();
            let outside: Vec<u8> = text.bytes().filter(|byte| scan.is_outside(*byte)).collect();
            assert_eq!(String::from_utf8(outside).unwrap(), expected, "{text}");
            assert!(!scan.in_string());
        }
    }
}
