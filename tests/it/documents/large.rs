//! Documents of ten megabytes: memory grows by a bounded multiple of the document, and the next one uses the same memory.

use super::Server;

const MEGABYTE: usize = 1024 * 1024;
const SIZE: usize = 10 * MEGABYTE;
/// Memory that a document may take at its peak, as a multiple of its size: its content, its text and its chunks, each
/// more than once on their way, and what the allocator keeps.
const MULTIPLE: usize = 25;

/// Returns `kilobytes` of this name from the system's table of a process, in bytes.
fn memory(pid: u32, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<usize>().unwrap() * 1024
}

/// Paragraphs that differ in a number, with few words, so that they are quickly indexed.
fn paragraphs(before: &str, after: &str, round: u32) -> String {
    let mut text = String::with_capacity(SIZE + 4 * MEGABYTE / 1000);
    let rule = "refund refund warranty shipping ".repeat(30);
    for number in 0.. {
        if text.len() >= SIZE {
            break;
        }
        text += &format!("{before}Rule {round} {number}: {rule}{after}\n\n");
    }
    text
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_megabytes_take_a_bounded_amount_of_memory() {
    let mut server = Server::start("http://127.0.0.1:1", "").await;
    let client = server.client.clone();
    let pid = server.child.pid();
    client.put("small", "text/plain", "A small one first.").await;
    client.settled("small").await;
    let before = memory(pid, "VmRSS:");
    let mut peaks = Vec::new();
    for (id, media, content) in [
        ("text", "text/plain", paragraphs("", "", 1)),
        ("html", "text/html", paragraphs("<p>", "</p>", 2)),
    ] {
        client.put(id, media, content).await;
        let document = client.settled(id).await;
        assert_eq!(document["status"], "searchable", "{document}");
        let peak = memory(pid, "VmHWM:").saturating_sub(before);
        println!("{id}: {} chunks, peak {} MB", document["chunks"], peak / MEGABYTE);
        assert!(peak <= MULTIPLE * SIZE, "{id}: {} MB", peak / MEGABYTE);
        peaks.push(peak);
    }
    let found = client.search("rule 2 7").await;
    assert!(!found["data"].as_array().unwrap().is_empty());
    server.child.kill().await;
}
