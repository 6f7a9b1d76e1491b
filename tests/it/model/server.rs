//! A provider that does exactly what a test says, byte by byte.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Head of a chunked stream.
pub const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
/// Head of a stream that ends with the connection.
pub const UNTIL_CLOSE: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// A listening server. Stops when dropped.
pub struct Server {
    pub url: String,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Runs `script` once for each request; it returns the exchange when the connection may serve another request.
    pub async fn start<S, F>(script: S) -> Self
    where
        S: Fn(Exchange) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Option<Exchange>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                let script = script.clone();
                tokio::spawn(async move {
                    let mut socket = socket;
                    while let Some(exchange) = Exchange::read(socket).await {
                        match script(exchange).await {
                            Some(exchange) => socket = exchange.socket,
                            None => break,
                        }
                    }
                });
            }
        });
        Self { url, connections, task }
    }

    /// Sends the same bytes to everybody and closes.
    pub async fn canned(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = Arc::new(bytes.into());
        Self::start(move |mut exchange| {
            let bytes = Arc::clone(&bytes);
            async move {
                exchange.write(bytes.as_slice()).await;
                exchange.socket.shutdown().await.ok()?;
                exchange.closed().await;
                None
            }
        })
        .await
    }

    /// Returns how many connections were ever opened.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// One request and the socket to answer on.
pub struct Exchange {
    pub head: String,
    pub body: Value,
    pub socket: TcpStream,
}

impl Exchange {
    async fn read(mut socket: TcpStream) -> Option<Self> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if socket.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.unwrap().parse().unwrap();
        while bytes.len() < end + length {
            assert_ne!(socket.read_buf(&mut bytes).await.ok()?, 0);
        }
        let body = serde_json::from_slice(&bytes[end..]).unwrap();
        Some(Self { head, body, socket })
    }

    /// Writes bytes unchanged. Returns whether the other side still listens.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.socket.write_all(bytes.as_ref()).await.is_ok() && self.socket.flush().await.is_ok()
    }

    /// Writes one chunk of a chunked body.
    pub async fn chunk(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.write(chunked(bytes.as_ref())).await
    }

    /// Waits until the other side has closed the connection.
    pub async fn closed(&mut self) {
        let mut sink = [0; 1024];
        while !matches!(self.socket.read(&mut sink).await, Ok(0) | Err(_)) {}
    }
}

/// Encodes one chunk of a chunked body.
pub fn chunked(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// An event with one chunk of an answer.
pub fn event(choices: Value, usage: Value) -> String {
    let chunk = json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-test-0613",
        "choices": choices, "usage": usage,
    });
    format!("data: {chunk}\n\n")
}

/// An event with one delta.
pub fn delta(delta: Value) -> String {
    event(
        json!([{"index": 0, "delta": delta, "finish_reason": null}]),
        Value::Null,
    )
}

/// An event with a piece of text.
pub fn said(text: &str) -> String {
    delta(json!({"content": text}))
}

/// An event with a finish reason.
pub fn finish(reason: &str) -> String {
    event(json!([{"index": 0, "delta": {}, "finish_reason": reason}]), Value::Null)
}

/// The usage report.
pub fn usage(prompt: u64, completion: u64, cached: u64) -> String {
    let usage = json!({
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    });
    event(json!([]), usage)
}

/// The end.
pub const DONE: &str = "data: [DONE]\n\n";
