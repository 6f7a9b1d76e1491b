//! What the server holds for clients that do not read their answers, and for bodies that do not end.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::Size;
use crate::report::Report;
use crate::stats::mib;
use crate::world::{Programs, ServerOptions, Testbed};

/// Prompts of the long conversation, and their bytes: many for the server, few tokens for the model.
const PROMPTS: usize = 24;
const PROMPT_BYTES: usize = 60_000;
/// HTTP/2 connections, and requests on each.
const CONNECTIONS: usize = 20;
const REQUESTS: usize = 64;
/// Concurrent bodies, and the bytes that each announces.
const BODIES: usize = 150;
const BODY_BYTES: usize = 4 * 1024 * 1024;
/// Sent in one write.
static PIECE: [u8; 64 * 1024] = [b' '; 64 * 1024];
/// Duration of an attack, and time from its end to the last measurement.
const ATTACK: Duration = Duration::from_secs(60);

/// Runs the scenario.
pub async fn run(programs: &Programs, size: &Size) -> anyhow::Result<Report> {
    let world = Testbed::start(programs, ServerOptions::default()).await?;
    let mut connection = world.client.connect().await?;
    let conversation = world.client.create(&mut connection, 0).await?;
    for _ in 0..PROMPTS {
        let line = format!("{}\n", "-".repeat(63));
        let input = line.repeat(PROMPT_BYTES / line.len());
        world.client.ask(&mut connection, 0, &conversation, &input).await?;
    }
    world.quiet().await?;
    let pages = format!("/v1/conversations/{conversation}/messages?limit=100");
    let events = format!("/v1/conversations/{conversation}/events?after=0");
    let mut report = Report::new(
        "unread: answers that are not read, bodies that do not end",
        &format!(
            "{CONNECTIONS} HTTP/2 connections with a closed window request {REQUESTS} times each a page of 1 MiB, or an event \
             stream of 1.4 MiB, and read nothing; {BODIES} requests announce {} MiB and send all but the last byte. The connections \
             stay open for {} s. *After* is {} s later.",
            BODY_BYTES >> 20,
            ATTACK.as_secs(),
            ATTACK.as_secs(),
        ),
        &[
            "attack",
            "resident before, MiB",
            "at its peak",
            "after",
            "after / before",
        ],
    );
    let attack = size.pick(ATTACK, Duration::from_secs(35));
    for (name, path) in [
        ("pages", Some(&pages)),
        ("event streams", Some(&events)),
        ("bodies", None),
    ] {
        let before = world.used()?.resident;
        let mut peak = 0;
        let held = match path {
            Some(path) => OpenConnections::Answers(unread(&world, path).await?),
            None => OpenConnections::Bodies(unfinished(&world).await?),
        };
        let begun = Instant::now();
        while begun.elapsed() < attack {
            peak = peak.max(world.used()?.resident);
            sleep(Duration::from_millis(100)).await;
        }
        held.close();
        sleep(attack).await;
        let after = world.used()?.resident;
        report.row(vec![
            name.to_owned(),
            mib(before as f64),
            mib(peak as f64),
            mib(after as f64),
            format!("{:.2}", after as f64 / before as f64),
        ]);
    }
    Ok(report)
}

/// Keeps an attack going until closed.
enum OpenConnections {
    Answers(Vec<(SendRequest<Bytes>, Vec<ResponseFuture>)>),
    Bodies(Vec<TcpStream>),
}

impl OpenConnections {
    fn close(self) {
        match self {
            Self::Answers(answers) => drop(answers),
            Self::Bodies(bodies) => drop(bodies),
        }
    }
}

async fn unread(world: &Testbed, path: &str) -> anyhow::Result<Vec<(SendRequest<Bytes>, Vec<ResponseFuture>)>> {
    let mut all = Vec::new();
    for _ in 0..CONNECTIONS {
        let socket = TcpStream::connect(world.client.address()).await?;
        let (mut client, connection) = Builder::new().initial_window_size(0).handshake(socket).await?;
        tokio::spawn(connection);
        let mut responses = Vec::new();
        for _ in 0..REQUESTS {
            client = client.ready().await?;
            let request = axum::http::Request::get(format!("http://bench{path}"))
                .header("authorization", format!("Bearer {}", world.key))
                .header("x-copilotd-user", "user-0")
                .body(())
                .context("building the request")?;
            responses.push(client.send_request(request, true)?.0);
        }
        all.push((client, responses));
    }
    Ok(all)
}

async fn unfinished(world: &Testbed) -> anyhow::Result<Vec<TcpStream>> {
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: {BODY_BYTES}\r\n\r\n",
        world.key
    );
    let one = async || {
        let mut socket = TcpStream::connect(world.client.address()).await?;
        socket.write_all(head.as_bytes()).await?;
        let body = async {
            for _ in 0..BODY_BYTES / PIECE.len() - 1 {
                socket.write_all(&PIECE).await?;
            }
            socket.write_all(&PIECE[1..]).await
        };
        // A refused request is closed; one that waits for memory sends nothing for a while.
        let _ = tokio::time::timeout(Duration::from_secs(5), body).await;
        anyhow::Ok(socket)
    };
    futures::future::try_join_all((0..BODIES).map(|_| one())).await
}
