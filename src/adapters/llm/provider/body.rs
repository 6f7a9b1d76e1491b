//! The body of an answer. We never ask for a compressed one; some proxies compress it all the same.

use std::io::Write;

use bytes::Bytes;
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use reqwest::header::CONTENT_ENCODING;

/// Compressed bytes that are inflated at once; they become at most a thousand times as many.
const SLICE: usize = 512;

/// Why a body cannot be read to its end.
#[derive(Debug)]
pub enum BodyError {
    /// The connection broke.
    Network(reqwest::Error),
    /// The compressed data is invalid.
    Encoding,
}

/// A body, piece by piece.
pub type Body = BoxStream<'static, Result<Bytes, BodyError>>;

enum Inflate {
    /// Declared as compressed; the first bytes decide.
    Gzip,
    Deflate,
    Gunzipping(Box<MultiGzDecoder<Vec<u8>>>),
    Inflating(Box<ZlibDecoder<Vec<u8>>>),
    Plain,
}

/// Reads the body of `response`.
pub fn open(response: reqwest::Response) -> Body {
    let encoding = response.headers().get(CONTENT_ENCODING);
    let encoding = encoding.map(|value| value.as_bytes().to_ascii_lowercase());
    let inflate = match encoding.as_deref() {
        Some(b"gzip" | b"x-gzip") => Inflate::Gzip,
        Some(b"deflate") => Inflate::Deflate,
        _ => Inflate::Plain,
    };
    let raw = response.bytes_stream().map_err(BodyError::Network).boxed();
    if matches!(inflate, Inflate::Plain) {
        return raw;
    }
    stream::try_unfold(
        (raw, inflate, Bytes::new()),
        |(mut raw, mut inflate, mut piece)| async move {
            loop {
                if piece.is_empty() {
                    match raw.try_next().await? {
                        Some(next) => piece = next,
                        None => return Ok(None),
                    }
                }
                let slice = piece.split_to(SLICE.min(piece.len()));
                let out = inflate.read(slice)?;
                if !out.is_empty() {
                    return Ok(Some((out, (raw, inflate, piece))));
                }
            }
        },
    )
    .boxed()
}

impl Inflate {
    fn read(&mut self, piece: Bytes) -> Result<Bytes, BodyError> {
        match (&self, piece.first()) {
            (Self::Gzip, Some(0x1f)) => *self = Self::Gunzipping(Box::new(MultiGzDecoder::new(Vec::new()))),
            (Self::Deflate, Some(0x08 | 0x18 | 0x28 | 0x38 | 0x48 | 0x58 | 0x68 | 0x78)) => {
                *self = Self::Inflating(Box::new(ZlibDecoder::new(Vec::new())));
            }
            // It is not compressed after all.
            (Self::Gzip | Self::Deflate, Some(_)) => *self = Self::Plain,
            _ => {}
        }
        let broken = |_| BodyError::Encoding;
        match self {
            Self::Gunzipping(gzip) => {
                gzip.write_all(&piece).and_then(|()| gzip.flush()).map_err(broken)?;
                Ok(std::mem::take(gzip.get_mut()).into())
            }
            Self::Inflating(zlib) => {
                zlib.write_all(&piece).and_then(|()| zlib.flush()).map_err(broken)?;
                Ok(std::mem::take(zlib.get_mut()).into())
            }
            _ => Ok(piece),
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn read(encoding: &str, body: &[u8], step: usize) -> Result<Vec<u8>, ()> {
        let mut inflate = match encoding {
            "gzip" => Inflate::Gzip,
            _ => Inflate::Deflate,
        };
        let mut out = Vec::new();
        for piece in body.chunks(step) {
            out.extend_from_slice(&inflate.read(Bytes::copy_from_slice(piece)).map_err(|_| ())?);
        }
        Ok(out)
    }

    #[test]
    fn an_unrequested_compressed_body_is_read_however_it_is_split() {
        let text = "data: {\"choices\":[]}\n\n".repeat(50).into_bytes();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&text).unwrap();
        let gzip = gzip.finish().unwrap();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(&text).unwrap();
        let zlib = zlib.finish().unwrap();
        for step in [1, 2, 7, 4096] {
            assert_eq!(read("gzip", &gzip, step).as_ref(), Ok(&text), "{step}");
            assert_eq!(read("deflate", &zlib, step).as_ref(), Ok(&text), "{step}");
            assert_eq!(read("gzip", &text, step).as_ref(), Ok(&text), "{step}");
        }
        assert!(read("gzip", b"\x1fnot gzip at all, and long enough", 64).is_err());
    }
}
