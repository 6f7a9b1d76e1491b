//! The parts of a ZIP archive, found without a list of all of them: an archive may claim any number of parts of any size.

use std::io::Read as _;

use flate2::read::DeflateDecoder;

use crate::extract::error::ExtractError;

/// Signatures and sizes without variable members, of APPNOTE.TXT 6.3, sections 4.3.7, 4.3.12 and 4.3.16.
const LOCAL: (&[u8], usize) = (b"PK\x03\x04", 30);
const CENTRAL: (&[u8], usize) = (b"PK\x01\x02", 46);
const END: (&[u8], usize) = (b"PK\x05\x06", 22);
/// Longest comment after the end of the directory.
const MAX_COMMENT: usize = 0xffff;
/// Compression methods.
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// An archive.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    directory: &'a [u8],
}

/// Returns the little-endian number at a place.
fn number(bytes: &[u8], at: usize, length: usize) -> Result<usize, ExtractError> {
    let found = bytes.get(at..at + length).ok_or(ExtractError::Damaged)?;
    Ok(found
        .iter()
        .rev()
        .fold(0, |number, byte| (number << 8) | usize::from(*byte)))
}

/// Returns what a record with this signature begins with, and what comes after that.
fn record<'a>(bytes: &'a [u8], (signature, size): (&[u8], usize)) -> Result<(&'a [u8], &'a [u8]), ExtractError> {
    match bytes.split_at_checked(size) {
        Some((record, rest)) if record.starts_with(signature) => Ok((record, rest)),
        _ => Err(ExtractError::Damaged),
    }
}

impl<'a> Archive<'a> {
    /// Finds the directory. Archives in parts and those with 64-bit sizes are damaged: no document is one.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, ExtractError> {
        let first = bytes.len().saturating_sub(END.1 + MAX_COMMENT);
        let last = &bytes[first..];
        let end = last.windows(END.0.len()).rposition(|window| window == END.0);
        let (end, _) = record(&last[end.ok_or(ExtractError::Damaged)?..], END)?;
        let (length, offset) = (number(end, 12, 4)?, number(end, 16, 4)?);
        let directory = bytes.get(offset..).and_then(|rest| rest.get(..length));
        Ok(Self {
            bytes,
            directory: directory.ok_or(ExtractError::Damaged)?,
        })
    }

    /// Returns the content of the first part of this name, if it has at most `most` bytes; none if there is no such part.
    pub(super) fn part(&self, name: &str, most: usize) -> Result<Option<Vec<u8>>, ExtractError> {
        let mut rest = self.directory;
        while !rest.is_empty() {
            let (entry, after) = record(rest, CENTRAL)?;
            let (named, extra, comment) = (number(entry, 28, 2)?, number(entry, 30, 2)?, number(entry, 32, 2)?);
            let found = after.get(..named).ok_or(ExtractError::Damaged)?;
            if found.eq_ignore_ascii_case(name.as_bytes()) {
                return self.content(entry, most).map(Some);
            }
            rest = after.get(named + extra + comment..).ok_or(ExtractError::Damaged)?;
        }
        Ok(None)
    }

    fn content(&self, entry: &[u8], most: usize) -> Result<Vec<u8>, ExtractError> {
        const ENCRYPTED: usize = 1;
        if number(entry, 8, 2)? & ENCRYPTED != 0 {
            return Err(ExtractError::Encrypted);
        }
        let (length, offset) = (number(entry, 20, 4)?, number(entry, 42, 4)?);
        let (local, rest) = record(self.bytes.get(offset..).ok_or(ExtractError::Damaged)?, LOCAL)?;
        let start = number(local, 26, 2)? + number(local, 28, 2)?;
        let packed = rest.get(start..).and_then(|rest| rest.get(..length));
        let packed = packed.ok_or(ExtractError::Damaged)?;
        match u16::try_from(number(entry, 10, 2)?) {
            Ok(STORED) if packed.len() <= most => Ok(packed.to_vec()),
            Ok(STORED) => Err(ExtractError::TooLarge),
            Ok(DEFLATED) => {
                // What the archive says about the size may be wrong.
                let (mut content, bound) = (Vec::new(), most as u64 + 1);
                let read = DeflateDecoder::new(packed).take(bound).read_to_end(&mut content);
                match read {
                    Ok(read) if read <= most => Ok(content),
                    Ok(_) => Err(ExtractError::TooLarge),
                    Err(_) => Err(ExtractError::Damaged),
                }
            }
            _ => Err(ExtractError::Damaged),
        }
    }
}
