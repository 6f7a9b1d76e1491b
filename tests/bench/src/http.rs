//! A small HTTP/1.1 client on bare sockets: it must cost less than what it measures.

use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Maximum size of a response head.
const MAX_HEAD: usize = 16 * 1024;

/// One keep-alive connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Start of the unread bytes in the buffer.
    at: usize,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Length(usize),
    /// Bytes left of the current chunk; zero before its size is read.
    Chunked(usize),
    Ended,
}

/// A response whose body has not been read yet.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    body: Body,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("connecting")?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
            at: 0,
        })
    }

    /// Sends a request and reads the head of its response.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: Option<&str>,
    ) -> anyhow::Result<Response> {
        let body = body.unwrap_or_default();
        let kind = if body.is_empty() {
            ""
        } else {
            "content-type: application/json\r\n"
        };
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: bench\r\n{headers}{kind}content-length: {length}\r\n\r\n{body}");
        self.stream.write_all(request.as_bytes()).await?;
        self.head().await
    }

    async fn head(&mut self) -> anyhow::Result<Response> {
        let end = loop {
            if let Some(end) = find(&self.buffer[self.at..], b"\r\n\r\n") {
                break self.at + end;
            }
            ensure!(self.buffer.len() - self.at < MAX_HEAD, "response head too long");
            ensure!(self.fill().await?, "the connection closed before a response");
        };
        let head = std::str::from_utf8(&self.buffer[self.at..end]).context("response head is not UTF-8")?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let status: u16 = status
            .and_then(|status| status.parse().ok())
            .context("response has no status code")?;
        let mut body = if status == 204 { Body::Ended } else { Body::Length(0) };
        for line in lines {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            if name.eq_ignore_ascii_case("content-length") {
                body = match value.trim().parse()? {
                    0 => Body::Ended,
                    length => Body::Length(length),
                };
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                body = Body::Chunked(0);
            }
        }
        self.at = end + 4;
        Ok(Response { status, body })
    }

    /// Reads the next bytes of a body into `out`; returns false at its end.
    pub async fn next(&mut self, response: &mut Response, out: &mut Vec<u8>) -> anyhow::Result<bool> {
        loop {
            let ready = self.buffer.len() - self.at;
            match &mut response.body {
                Body::Ended | Body::Length(0) => return Ok(false),
                Body::Length(left) | Body::Chunked(left) if *left > 0 && ready > 0 => {
                    let taken = ready.min(*left);
                    out.extend_from_slice(&self.buffer[self.at..self.at + taken]);
                    self.at += taken;
                    *left -= taken;
                    return Ok(true);
                }
                Body::Chunked(left) if *left == 0 => {
                    // A size is on a line of its own; the end of the previous chunk is an empty line.
                    if let Some(end) = find(&self.buffer[self.at..], b"\r\n") {
                        let line = std::str::from_utf8(&self.buffer[self.at..self.at + end])?;
                        if line.is_empty() {
                            self.at += 2;
                            continue;
                        }
                        let size = usize::from_str_radix(line.trim(), 16).context("invalid chunk size")?;
                        self.at += end + 2;
                        if size > 0 {
                            *left = size;
                        } else {
                            response.body = Body::Ended;
                            // The empty line after the last chunk.
                            while self.buffer.len() - self.at < 2 {
                                ensure!(self.fill().await?, "the connection closed in a body");
                            }
                            self.at += 2;
                        }
                        continue;
                    }
                }
                Body::Length(_) | Body::Chunked(_) => {}
            }
            if !self.fill().await? {
                bail!("the connection closed in a body");
            }
        }
    }

    /// Reads a whole body.
    pub async fn text(&mut self, mut response: Response) -> anyhow::Result<String> {
        let mut out = Vec::new();
        while self.next(&mut response, &mut out).await? {}
        Ok(String::from_utf8(out)?)
    }

    async fn fill(&mut self) -> anyhow::Result<bool> {
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
        }
        self.buffer.reserve(1024);
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
