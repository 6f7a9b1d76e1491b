//! The faults of the public benchmark failoverbench and similar ones, each in front of a healthy second target: who
//! gets an answer, and how often the faulty provider was called. With other texts than [`super::faults`], and over real
//! sockets.

use std::fmt;
use std::time::Duration;

use copilotd_gateway::error::GatewayErrorKind;
use copilotd_gateway::provider::Timeouts;
use copilotd_gateway::request::call::Mode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::{CLOCKS, Provider, TEXT, gateway, gateway_patient, hanging, place, read, refusing, request};

/// How a call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The whole answer arrived, and the faulty provider was not called too often.
    Pass,
    /// A clear error arrived in time, or the provider was called too often.
    Partial,
    /// Something else arrived as if it were the answer, or nothing in time.
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Partial => "partial",
            Self::Fail => "FAIL",
        })
    }
}

/// A provider that is broken in one way.
enum BrokenProvider {
    Refuses,
    NoName,
    /// Never completes a connection.
    Hangs,
    /// Accepts the connection and then sends nothing.
    HangsInHandshake,
    /// A simulated provider with this directive.
    Says(String),
    /// Always sends these bytes.
    Sends(String),
}

/// An answer with this status, type and body, as bytes.
fn sends(status: &str, kind: &str, body: &str) -> BrokenProvider {
    let length = body.len();
    BrokenProvider::Sends(format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    ))
}

/// The answer as events.
fn events() -> String {
    let chunk = |delta: &str, finish: &str| {
        format!(
            r#"data: {{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt","choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}"#
        )
    };
    let text = chunk(&format!(r#"{{"role":"assistant","content":"{TEXT}"}}"#), "null");
    format!("{text}\n\n{}\n\ndata: [DONE]\n\n", chunk("{}", r#""stop""#))
}

/// The answer as a document.
fn document() -> String {
    format!(
        r#"{{"id":"c","object":"chat.completion","created":1,"model":"gpt","choices":[{{"index":0,"message":{{"role":"assistant","content":"{TEXT}"}},"finish_reason":"stop"}}]}}"#
    )
}

/// Each fault, how it is made, and how often the faulty provider may be called.
fn faults() -> Vec<(&'static str, BrokenProvider, u64)> {
    let dies = |how: &str| BrokenProvider::Says(format!("text=\"{TEXT}\" chunk=5 {how}"));
    let says = |how: &str| BrokenProvider::Says(how.to_owned());
    vec![
        ("connection refused", BrokenProvider::Refuses, 0),
        ("no such name", BrokenProvider::NoName, 0),
        ("connection hangs", BrokenProvider::Hangs, 0),
        ("TLS handshake hangs", BrokenProvider::HangsInHandshake, 1),
        ("401", says("status=401"), 1),
        ("403", says("status=403"), 1),
        ("429", says("status=429"), 1),
        ("429 with Retry-After", says("status=429 retry_after=20"), 1),
        ("500", says("status=500"), 2),
        ("503", says("status=503"), 2),
        ("529", says("status=529 code=overloaded_error"), 2),
        ("slow first token", says("tokens=9 first_ms=60000"), 1),
        ("stall in mid-answer", dies("stall_after=9 keepalive_ms=20"), 1),
        ("cut in mid-answer", dies("cut_after=9"), 1),
        ("malformed chunk", dies("malformed=1"), 1),
        ("error in the stream", dies("stream_error=server_error"), 2),
        ("rate limit in the stream", dies("stream_error=rate_limit_error"), 2),
        (
            "a page with 200",
            sends("200 OK", "text/html", "<html><h1>Welcome</h1></html>"),
            2,
        ),
        (
            "a page with 400",
            sends("400 Bad Request", "text/html", "<html>Bad Request</html>"),
            1,
        ),
        ("an empty stream", sends("200 OK", "text/event-stream", ""), 2),
        (
            "an empty stream with an end",
            sends("200 OK", "text/event-stream", "data: [DONE]\n\n"),
            2,
        ),
        ("context too long", says("status=400 code=context_length_exceeded"), 1),
        (
            "a dead key as a list",
            sends(
                "400 Bad Request",
                "application/json",
                r#"[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}]"#,
            ),
            1,
        ),
        (
            "an account without money",
            sends(
                "400 Bad Request",
                "application/json",
                r#"{"code":"Arrearage","message":"Access denied, please make sure your account is in good standing."}"#,
            ),
            1,
        ),
        (
            "an unknown refusal",
            sends(
                "400 Bad Request",
                "application/json",
                r#"{"error":{"message":"Not today.","code":"E17"}}"#,
            ),
            1,
        ),
    ]
}

/// Answers every request with `bytes`.
async fn sending(bytes: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 64 * 1024];
                let mut read = 0;
                // The whole request, so that nothing is left unread when the connection closes.
                while let Ok(more @ 1..) = peer.read(&mut request[read..]).await {
                    read += more;
                    let text = String::from_utf8_lossy(&request[..read]).to_ascii_lowercase();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else {
                        continue;
                    };
                    let length = head
                        .split("content-length: ")
                        .nth(1)
                        .and_then(|rest| rest.lines().next());
                    if length
                        .and_then(|length| length.parse().ok())
                        .is_none_or(|length: usize| body.len() >= length)
                    {
                        break;
                    }
                }
                let _ = peer.write_all(bytes.as_bytes()).await;
            });
        }
    });
    format!("http://{address}/v1")
}

/// A broken provider's address, and what has to live as long as it.
async fn start(broken: BrokenProvider) -> (String, Option<Provider>, Box<dyn std::any::Any>) {
    match broken {
        BrokenProvider::Refuses => (refusing().await, None, Box::new(())),
        // Longer than a host name may be, so that no resolver is queried.
        BrokenProvider::NoName => (format!("http://{}/v1", "a".repeat(70)), None, Box::new(())),
        BrokenProvider::Hangs => {
            let (url, kept) = hanging().await;
            (url, None, Box::new(kept))
        }
        BrokenProvider::HangsInHandshake => {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("https://{}/v1", listener.local_addr().unwrap());
            // The kernel accepts; nobody ever reads.
            (url, None, Box::new(listener))
        }
        BrokenProvider::Says(fault) => {
            let provider = Provider::faulty(&fault).await;
            (provider.url(), Some(provider), Box::new(()))
        }
        BrokenProvider::Sends(bytes) => (sending(bytes).await, None, Box::new(())),
    }
}

/// The forms in which an answer is requested.
const FORMS: [(&str, bool, Mode); 3] = [
    ("streamed live", true, Mode::Live),
    ("streamed buffered", true, Mode::Buffered),
    ("document", false, Mode::Live),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_before_a_healthy_target_passes_in_each_form() {
    let (mut table, mut bad) = (String::new(), 0);
    for at in 0..faults().len() {
        for (form, stream, mode) in FORMS {
            let (name, broken, most) = faults().swap_remove(at);
            let (url, provider, _kept) = start(broken).await;
            let good = Provider::faulty(&format!("text=\"{TEXT}\" chunk=7")).await;
            let mut second = place("good", good.url());
            second.context_tokens = 10_000;
            let (gateway, ledger) = gateway(vec![place("bad", url), second], CLOCKS);
            let begun = Instant::now();
            let (answer, error) = match gateway.chat(request(stream, mode)).await {
                Ok(reply) => {
                    let read = read(reply).await;
                    let whole = read.finished && read.error.is_none();
                    (whole.then_some(read.text), read.error)
                }
                Err(error) => (None, Some(error)),
            };
            let asked = ledger.lines().iter().filter(|line| line.starts_with("bad")).count() as u64;
            let seen = match &provider {
                Some(provider) => provider.seen().await,
                None => asked,
            };
            // An unreachable provider sees nothing, so our own attempts are counted: two at most.
            // A document that breaks off looks like a broken connection, which is tried once more.
            let is_decent = seen <= most.max(if provider.is_some() && stream { most } else { 2 });
            let verdict = match (&answer, &error) {
                _ if begun.elapsed() > CLOCKS.total => Verdict::Fail,
                (Some(text), _) if text != TEXT => Verdict::Fail,
                (Some(_), _) if is_decent => Verdict::Pass,
                (Some(_), _) => Verdict::Partial,
                (None, Some(error)) if error.kind != GatewayErrorKind::Invalid => Verdict::Partial,
                (None, _) => Verdict::Fail,
            };
            bad += usize::from(verdict != Verdict::Pass);
            table += &format!("{verdict:7} {name}, {form}: {seen} requests, {error:?}\n");
        }
    }
    println!("{table}");
    assert_eq!(bad, 0, "\n{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_hangs_is_tried_once() {
    for broken in [BrokenProvider::Hangs, BrokenProvider::HangsInHandshake] {
        let (url, _, _kept) = start(broken).await;
        let (gateway, ledger) = gateway(vec![place("bad", url)], CLOCKS);
        let begun = Instant::now();
        let error = gateway.chat(request(true, Mode::Live)).await.unwrap_err();
        assert_eq!(error.kind, GatewayErrorKind::Timeout);
        assert_eq!(ledger.lines(), ["bad/gpt silence"]);
        assert!(begun.elapsed() >= CLOCKS.connect);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_readable_body_is_read_whatever_its_type() {
    let kinds = [
        "application/json",
        "text/html; charset=utf-8",
        "text/plain",
        "application/octet-stream",
        "text/event-stream",
    ];
    for kind in kinds {
        for (stream, body) in [
            (true, events()),
            (true, format!(": hello\n\n{}", events())),
            (false, document()),
        ] {
            let BrokenProvider::Sends(bytes) = sends("200 OK", kind, &body) else {
                unreachable!("these are bytes")
            };
            let (gateway, ledger) = gateway(vec![place("odd", sending(bytes).await)], CLOCKS);
            let read = read(gateway.chat(request(stream, Mode::Live)).await.unwrap()).await;
            assert_eq!(
                (read.text.as_str(), read.finished),
                (TEXT, true),
                "{kind} {stream}: {:?}",
                read.error
            );
            assert_eq!(ledger.lines(), ["odd/gpt ok"], "{kind} {stream}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_with_patience_asks_its_first_target_again_when_that_named_a_short_time() {
    let first = Provider::faulty("status=429 retry_after=1 fail_times=1").await;
    let second = Provider::start().await;
    let places = || vec![place("a", first.url()), place("b", second.url())];
    let clocks = Timeouts {
        total: Duration::from_secs(20),
        ..CLOCKS
    };
    let (patient, ledger) = gateway_patient(places(), clocks, Duration::from_millis(3_000));
    let begun = Instant::now();
    let answer = read(patient.chat(request(true, Mode::Live)).await.unwrap()).await;
    assert!(answer.finished && answer.error.is_none(), "{answer:?}");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(ledger.lines(), ["a/gpt rate", "a/gpt ok"]);
}
