//! What is imported: the files of a directory, or the lines of a JSONL file.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use copilotd_actors::domain::ids::ExternalId;
use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;

use super::send::Content;
use crate::cli::Failure;
use crate::cli::args::ImportArgs;

/// Most files of a directory, and lines of a file.
const MAX_ITEMS: usize = 1_000_000;
/// Most directories within one another.
const MAX_DEPTH: usize = 64;
/// What a line may have beside its text.
const LINE_ENVELOPE: u64 = 1024 * 1024;
/// Media types by the ending of a file's name.
const TYPES: [(&str, &str); 10] = [
    ("txt", "text/plain"),
    ("text", "text/plain"),
    ("md", "text/markdown"),
    ("markdown", "text/markdown"),
    ("html", "text/html"),
    ("htm", "text/html"),
    ("pdf", "application/pdf"),
    ("csv", "text/csv"),
    (
        "docx",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ),
    ("json", "application/json"),
];

/// Something in the source.
pub(super) enum Found {
    /// How much there is, in the unit of [`Item::share`].
    Total(u64),
    /// A document.
    Item(Item),
    /// Something that is no document.
    Skipped { place: String, reason: &'static str },
    /// A document that cannot be stored.
    Failed { place: String, reason: String, share: u64 },
}

/// A document to store.
#[derive(Debug)]
pub(super) struct Item {
    pub external_id: ExternalId,
    /// Where it is, for people: the path of a file, or a file and a line.
    pub place: String,
    /// Its part of the total.
    pub share: u64,
    body: ItemBody,
}

#[derive(Debug)]
enum ItemBody {
    File {
        path: PathBuf,
        media_type: &'static str,
        attributes: Value,
    },
    /// The JSON of the request.
    Line(String),
}

impl Item {
    /// Reads what is sent; the error is for people.
    pub async fn content(&self, max_bytes: u64) -> Result<Content, String> {
        match &self.body {
            ItemBody::Line(json) => Ok(Content::Json(json.clone().into())),
            ItemBody::File {
                path,
                media_type,
                attributes,
            } => {
                let (path, media_type, attributes) = (path.clone(), *media_type, attributes.clone());
                let read = tokio::task::spawn_blocking(move || read_file(&path, max_bytes)).await;
                let bytes = read.map_err(|error| error.to_string())??;
                Ok(Content::File {
                    bytes,
                    media_type,
                    attributes,
                })
            }
        }
    }
}

/// Reads a regular file. Since the directory was listed it may have become something else.
fn read_file(path: &Path, max_bytes: u64) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("cannot read it: {error}");
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(max_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    match bytes.len() as u64 {
        0 => Err("it is empty".to_owned()),
        size if size > max_bytes => Err(too_large(max_bytes)),
        _ => Ok(bytes),
    }
}

fn too_large(max_bytes: u64) -> String {
    format!("it is larger than {max_bytes} bytes (--max-bytes)")
}

/// Starts to read the source. What cannot be opened at all is wrong usage.
pub(super) fn start(args: &ImportArgs, to: Sender<Found>) -> Result<(), Failure> {
    let path = &args.path;
    let bad = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let max_bytes = args.max_bytes;
    let mut attributes = json!({});
    if !args.allowed_roles.is_empty() {
        attributes["allowed_roles"] = json!(args.allowed_roles);
    }
    if !args.allowed_users.is_empty() {
        attributes["allowed_users"] = json!(args.allowed_users);
    }
    let has_access = attributes.as_object().is_some_and(|members| !members.is_empty());
    let is_lines = path.as_os_str() == "-" || has_ending(path, &["jsonl", "ndjson"]);
    if is_lines && has_access {
        let text =
            "--allowed-role and --allowed-user apply to files; write allowed_roles and allowed_users into the lines";
        return Err(Failure::usage(text));
    }
    let work: Box<dyn FnOnce() + Send> = if path.as_os_str() == "-" {
        Box::new(move || lines(BufReader::new(std::io::stdin()), "standard input", max_bytes, &to))
    } else if is_lines {
        let file = File::open(path).map_err(bad)?;
        let size = file.metadata().map_err(bad)?.len();
        let name = path.display().to_string();
        Box::new(move || {
            let _ = to.blocking_send(Found::Total(size));
            lines(BufReader::with_capacity(1 << 20, file), &name, max_bytes, &to);
        })
    } else if std::fs::metadata(path).map_err(bad)?.is_dir() {
        std::fs::read_dir(path).map_err(bad)?;
        let root = path.clone();
        Box::new(move || Directory { root, attributes }.send(&to))
    } else {
        let name = path.file_name().unwrap_or_default().to_owned();
        // The argument itself may be a link.
        let target = path.canonicalize().map_err(bad)?;
        Box::new(move || {
            let _ = to.blocking_send(Found::Total(1));
            let found = file_item(target, Path::new(&name), &attributes);
            let _ = to.blocking_send(found);
        })
    };
    // A thread of its own: one that waits for standard input must not keep the program from ending.
    let started = std::thread::Builder::new().name("import-source".to_owned()).spawn(work);
    started.map_err(|error| Failure::failed(format!("cannot start a thread: {error}")))?;
    Ok(())
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    endings.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// A directory and the attributes of its documents.
struct Directory {
    root: PathBuf,
    attributes: Value,
}

impl Directory {
    /// Sends what the directory has, in order of the paths.
    fn send(&self, to: &Sender<Found>) {
        let mut found = Vec::new();
        self.walk(&self.root, 0, &mut found);
        let items = found
            .iter()
            .filter(|found| !matches!(found, Found::Skipped { .. }))
            .count();
        let _ = to.blocking_send(Found::Total(items as u64));
        for one in found {
            // The receiver is gone if the import was stopped.
            if to.blocking_send(one).is_err() {
                return;
            }
        }
    }

    fn walk(&self, directory: &Path, depth: usize, found: &mut Vec<Found>) {
        let failed = |path: &Path, reason: String| Found::Failed {
            place: path.display().to_string(),
            reason,
            share: 1,
        };
        let entries = std::fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => return found.push(failed(directory, format!("cannot read the directory: {error}"))),
        };
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            if found.len() >= MAX_ITEMS {
                let text = format!("the directory has more than {MAX_ITEMS} files; import its parts");
                return found.push(failed(&path, text));
            }
            let skipped = |reason| Found::Skipped {
                place: path.display().to_string(),
                reason,
            };
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                Err(error) => {
                    found.push(failed(&path, format!("cannot read it: {error}")));
                    continue;
                }
            };
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            found.push(match () {
                () if is_hidden => skipped("hidden"),
                () if kind.is_symlink() => skipped("symbolic link"),
                () if kind.is_dir() && depth >= MAX_DEPTH => {
                    failed(&path, format!("more than {MAX_DEPTH} directories within one another"))
                }
                () if kind.is_dir() => {
                    self.walk(&path, depth + 1, found);
                    continue;
                }
                () if !kind.is_file() => skipped("no regular file"),
                () => {
                    let relative = path.strip_prefix(&self.root).unwrap_or(&path).to_owned();
                    file_item(path, &relative, &self.attributes)
                }
            });
        }
    }
}

/// A file with its path below the directory, which is its id.
fn file_item(path: PathBuf, relative: &Path, attributes: &Value) -> Found {
    let place = path.display().to_string();
    let known = TYPES.iter().find(|(ending, _)| has_ending(relative, &[ending]));
    let Some((_, media_type)) = known else {
        return Found::Skipped {
            place,
            reason: "its ending is none of txt, md, html, pdf, csv and json",
        };
    };
    match relative
        .to_str()
        .ok_or("it is not UTF-8".to_owned())
        .and_then(external_id)
    {
        Err(error) => Found::Failed {
            place,
            reason: format!("its path cannot be an id: {error}"),
            share: 1,
        },
        Ok(external_id) => Found::Item(Item {
            external_id,
            place,
            share: 1,
            body: ItemBody::File {
                path,
                media_type,
                attributes: attributes.clone(),
            },
        }),
    }
}

fn external_id(text: &str) -> Result<ExternalId, String> {
    // An address cannot end in one of these, whether they are encoded or not.
    if text == "." || text == ".." {
        return Err(format!("{text} cannot be part of an address"));
    }
    text.parse().map_err(|error| format!("{error}"))
}

/// Sends the lines of a file.
fn lines(mut file: impl BufRead, name: &str, max_bytes: u64, to: &Sender<Found>) {
    let longest = max_bytes.saturating_mul(2).saturating_add(LINE_ENVELOPE);
    let mut seen = HashSet::new();
    let mut line = Vec::new();
    for number in 1.. {
        let place = format!("{name}:{number}");
        let failed = |reason: String, share| Found::Failed {
            place: place.clone(),
            reason,
            share,
        };
        line.clear();
        let found = match read_line(&mut file, &mut line, longest) {
            Ok(0) => return,
            Ok(share) if line.len() as u64 > longest => {
                failed(format!("the line is longer than {longest} bytes"), share)
            }
            Ok(share) if line.trim_ascii().is_empty() => {
                let _ = share;
                continue;
            }
            Ok(share) => match parse_line(&line, number == 1, max_bytes) {
                Err(reason) => failed(reason, share),
                Ok((external_id, _)) if seen.len() >= MAX_ITEMS && !seen.contains(&external_id) => {
                    let _ = to.blocking_send(failed(format!("the file has more than {MAX_ITEMS} lines"), share));
                    return;
                }
                Ok((external_id, _)) if !seen.insert(external_id.clone()) => {
                    failed(format!("an earlier line has the external_id {external_id} too"), share)
                }
                Ok((external_id, body)) => Found::Item(Item {
                    external_id,
                    place: place.clone(),
                    share,
                    body: ItemBody::Line(body),
                }),
            },
            Err(error) => {
                let _ = to.blocking_send(failed(format!("cannot read on: {error}"), 0));
                return;
            }
        };
        if to.blocking_send(found).is_err() {
            return;
        }
    }
}

/// Reads a line with at most a byte more than `longest` of it, and skips the rest. Returns the bytes read.
fn read_line(file: &mut impl BufRead, line: &mut Vec<u8>, longest: u64) -> std::io::Result<u64> {
    let most = longest.saturating_add(1);
    let mut read = file.by_ref().take(most).read_until(b'\n', line)? as u64;
    if read == most && line.last() != Some(&b'\n') {
        loop {
            let buffer = file.fill_buf()?;
            let end = memchr_newline(buffer);
            let (length, is_end) = (
                end.map_or(buffer.len(), |end| end + 1),
                end.is_some() || buffer.is_empty(),
            );
            file.consume(length);
            read += length as u64;
            if is_end {
                break;
            }
        }
    }
    Ok(read)
}

fn memchr_newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

/// Reads a line: its id, and the rest as the body of the request. The server checks the body.
fn parse_line(line: &[u8], is_first: bool, max_bytes: u64) -> Result<(ExternalId, String), String> {
    let text = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8".to_owned())?;
    let text = if is_first {
        text.trim_start_matches('\u{feff}')
    } else {
        text
    };
    let value: Value = serde_json::from_str(text).map_err(|error| format!("the line is not JSON: {error}"))?;
    let Value::Object(mut members) = value else {
        return Err("the line is no JSON object".to_owned());
    };
    let id = match members.shift_remove("external_id") {
        Some(Value::String(id)) => external_id(&id).map_err(|error| format!("external_id: {error}"))?,
        Some(_) => return Err("external_id is no string".to_owned()),
        None => return Err("external_id is missing".to_owned()),
    };
    match members.get("text") {
        Some(Value::String(text)) if text.is_empty() => Err("text is empty".to_owned()),
        Some(Value::String(text)) if text.len() as u64 > max_bytes => Err(too_large(max_bytes)),
        Some(Value::String(_)) => Ok((id, Value::Object(members).to_string())),
        Some(_) => Err("text is no string".to_owned()),
        None => Err("text is missing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], max_bytes: u64) -> Vec<String> {
        let (to, mut found) = tokio::sync::mpsc::channel(100);
        lines(bytes, "f", max_bytes, &to);
        drop(to);
        std::iter::from_fn(|| found.blocking_recv())
            .map(|found| match found {
                Found::Item(item) => format!("{} {} {}", item.place, item.external_id, item.share),
                Found::Failed { place, reason, share } => format!("{place} {reason} {share}"),
                Found::Total(_) | Found::Skipped { .. } => panic!("not from lines"),
            })
            .collect()
    }

    #[test]
    fn bad_lines_are_named_and_the_others_are_read() {
        let text = "\u{feff}{\"external_id\": \"a\", \"text\": \"x\"}\n\n[]\n{\"text\": \"x\"}\n{\"external_id\": 7}\n{\
                    \"external_id\": \"a\", \"text\": \"y\"}\n{\"external_id\": \"..\", \"text\": \"y\"}\n{\
                    \"external_id\": \"b\", \"text\": \"\"}\n{\"external_id\": \"b\", \"text\": \"long!\"}\n{\
                    \"external_id\": \"c\", \"text\": \"z\"}";
        let expected = [
            "f:1 a 37",
            "f:3 the line is no JSON object 3",
            "f:4 external_id is missing 14",
            "f:5 external_id is no string 19",
            "f:6 an earlier line has the external_id a too 34",
            "f:7 external_id: .. cannot be part of an address 35",
            "f:8 text is empty 33",
            "f:9 it is larger than 4 bytes (--max-bytes) 38",
            "f:10 c 33",
        ];
        assert_eq!(read(text.as_bytes(), 4), expected);
        assert_eq!(read(b"{\n\xff\n", 4)[1], "f:2 the line is not UTF-8 2");
    }

    #[test]
    fn a_long_line_is_skipped_to_its_end() {
        for (after, expected) in [("", 1), ("\n{\"external_id\": \"b\", \"text\": \"z\"}\n", 2)] {
            let long = "x".repeat(2 * 4 + usize::try_from(LINE_ENVELOPE).unwrap() + 70_000);
            let found = read(format!("{long}{after}").as_bytes(), 4);
            assert_eq!(found.len(), expected, "{found:?}");
            assert!(found[0].starts_with("f:1 the line is longer than"), "{found:?}");
        }
    }

    #[test]
    fn the_rest_of_a_line_is_the_body() {
        let line = br#"{"title": "T", "external_id": "a/b", "text": "x", "metadata": {"n": 1}}"#;
        let (id, body) = parse_line(line, false, 10).unwrap();
        assert_eq!(
            (id.as_str(), body.as_str()),
            ("a/b", r#"{"title":"T","text":"x","metadata":{"n":1}}"#)
        );
    }
}
