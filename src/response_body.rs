//! Bounded reading of the bodies that other servers answer with.

use bytes::{Bytes, BytesMut};
use reqwest::Response;

/// Why a body was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is larger than allowed; the rest was not read.
    #[error("more than {0} bytes")]
    TooLarge(usize),
    /// The connection broke, or the request's time is up. Without the address, which may contain a secret.
    #[error(transparent)]
    Network(reqwest::Error),
}

/// Reads the whole body, at most `most` bytes of it.
pub async fn read(response: &mut Response, most: usize) -> Result<Bytes, BodyError> {
    // What announces too much is not read at all.
    if response.content_length().is_some_and(|bytes| bytes > most as u64) {
        return Err(BodyError::TooLarge(most));
    }
    let mut body = BytesMut::new();
    while let Some(piece) = next(response).await? {
        if piece.len() > most - body.len() {
            return Err(BodyError::TooLarge(most));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

/// Appends the body to `start`, which never gets longer than `most` bytes; what follows is not read.
///
/// Cancel safe: what was read stays in `start`.
pub async fn read_start(response: &mut Response, start: &mut Vec<u8>, most: usize) -> Result<(), BodyError> {
    while start.len() < most
        && let Some(piece) = next(response).await?
    {
        let left = most - start.len();
        start.extend_from_slice(&piece[..piece.len().min(left)]);
    }
    Ok(())
}

async fn next(response: &mut Response) -> Result<Option<Bytes>, BodyError> {
    let piece = response.chunk().await;
    piece.map_err(|error| BodyError::Network(error.without_url()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(body: &'static [u8]) -> Response {
        let pieces = futures::stream::iter(body.chunks(3).map(Ok::<_, std::io::Error>));
        axum::http::Response::new(reqwest::Body::wrap_stream(pieces)).into()
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound() {
        for (body, most, expected) in [
            (&b""[..], 0, Some(&b""[..])),
            (b"1234567", 7, Some(b"1234567")),
            (b"1234567", 8, Some(b"1234567")),
            (b"1234567", 6, None),
            (b"1", 0, None),
        ] {
            let read = read(&mut response(body), most).await;
            assert_eq!(read.as_deref().ok(), expected, "{body:?} {most}");
        }
        let mut announced = axum::http::Response::new("1234567").into();
        assert!(matches!(read(&mut announced, 6).await, Err(BodyError::TooLarge(6))));
    }

    #[tokio::test]
    async fn the_start_of_a_body_is_cut_at_its_bound() {
        for (most, expected) in [(0, &b""[..]), (3, b"123"), (4, b"1234"), (9, b"1234567")] {
            let mut start = Vec::new();
            read_start(&mut response(b"1234567"), &mut start, most).await.unwrap();
            assert_eq!(start, expected, "{most}");
        }
    }
}
