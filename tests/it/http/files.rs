//! Attached files: uploaded, read, referred to by prompts, given to models and deleted over HTTP.

use std::sync::Arc;

use copilotd::http::credentials::Scopes;
use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::domain::file::PromptFile;
use serde_json::{Value, json};

use super::app::{TestApp, text, with_app, with_config, with_globex};
use super::client::{Answer, Call};

const FILES: &str = "/v1/files";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR and so on";
const REASON: &str = "x-copilotd-reason";
/// In milliseconds.
const HOUR: i64 = 3_600_000;

/// One part of a body, as a browser writes it.
fn part(name: &str, file_name: Option<&str>, media_type: Option<&str>, content: &[u8]) -> Vec<u8> {
    let mut part = format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"").into_bytes();
    if let Some(file_name) = file_name {
        part.extend(format!("; filename=\"{file_name}\"").bytes());
    }
    if let Some(media_type) = media_type {
        part.extend(format!("\r\nContent-Type: {media_type}").bytes());
    }
    part.extend(b"\r\n\r\n");
    part.extend(content);
    part.extend(b"\r\n");
    part
}

fn body(conversation: &str, name: &str, media_type: &str, content: &[u8]) -> Vec<u8> {
    let id = conversation.rsplit('/').next().unwrap();
    let mut body = part("conversation_id", None, None, id.as_bytes());
    body.extend(part("file", Some(name), Some(media_type), content));
    body.extend(b"--b--\r\n");
    body
}

trait Multipart {
    fn multipart(self, body: Vec<u8>) -> Self;
}

impl Multipart for Call<'_> {
    fn multipart(self, body: Vec<u8>) -> Self {
        self.raw("multipart/form-data; boundary=b", body)
    }
}

async fn upload(app: &TestApp, conversation: &str, name: &str, media_type: &str, content: &[u8]) -> Answer {
    let body = body(conversation, name, media_type, content);
    app.ada("POST", FILES).multipart(body).send().await
}

fn path(file: &Value) -> String {
    format!("{FILES}/{}", file["id"].as_str().unwrap())
}

fn with_file(text: &str, file: &Value) -> Value {
    json!({ "input": [{ "type": "text", "text": text }, { "type": "file", "file_id": file["id"] }] })
}

/// The files of the last prompt.
fn shown(app: &TestApp) -> Vec<PromptFile> {
    let requests = app.model.requests();
    let messages = Arc::clone(&requests.last().unwrap().messages);
    let files = messages.iter().filter_map(|message| match message {
        PromptMessage::Files { files } => Some(files.clone()),
        _ => None,
    });
    files.flatten().collect()
}

#[tokio::test(start_paused = true)]
async fn a_file_is_uploaded_referred_to_read_and_deleted() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let content = b"a,b\n1,2\n";
        let answer = upload(app, &conversation, "../r\u{e9}sum\u{e9}.csv", "text/csv", content)
            .await
            .expect(201);
        let file = answer.json();
        assert_eq!(answer.headers["location"].to_str().unwrap(), path(&file));
        assert_eq!(
            file,
            json!({
                "id": file["id"], "name": "r\u{e9}sum\u{e9}.csv", "media_type": "text/csv", "bytes": 8,
                "conversation_id": conversation.rsplit('/').next(),
            })
        );

        let read = app.get(&path(&file)).await.expect(200);
        assert_eq!(&read.body[..], content);
        for (name, expected) in [
            ("content-type", "text/csv; charset=utf-8"),
            ("content-length", "8"),
            (
                "content-disposition",
                "attachment; filename=\"r_sum_.csv\"; filename*=UTF-8''r%C3%A9sum%C3%A9.csv",
            ),
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "sandbox"),
        ] {
            assert_eq!(read.headers[name], expected, "{name}");
        }

        let given = with_file("What is b?", &file);
        let turn = app
            .post(&format!("{conversation}/turns"), given.clone())
            .await
            .expect(202);
        let turn = format!("/v1/turns/{}", turn.text("/id"));
        let done = app.turn_is(&turn, "completed").await;
        assert_eq!(done["input"], given["input"], "as it was given");
        let messages = app.get(&format!("{conversation}/messages")).await.expect(200).json();
        let seen = json!({
            "type": "file", "file_id": file["id"], "name": "r\u{e9}sum\u{e9}.csv", "media_type": "text/csv", "bytes": 8,
        });
        assert_eq!(messages["data"][0]["content"], json!([given["input"][0], seen]));
        let files = shown(app);
        assert_eq!(files.len(), 1, "{files:?}");
        assert!(files[0].text.contains("a,b\n1,2\n"), "{}", files[0].text);
        let requests = app.model.requests();
        let asked = requests.last().unwrap().messages.last().unwrap();
        let mention = "What is b?\n\n[Attached file: r\u{e9}sum\u{e9}.csv (text/csv)]";
        assert_eq!(asked.text(), Some(mention));

        app.ada("DELETE", &path(&file)).send().await.expect(204);
        for method in ["GET", "DELETE"] {
            app.ada(method, &path(&file)).send().await.problem(404, "not_found");
        }
        // The message stays as it was, and the next prompt says what became of the file.
        app.answered(&conversation, "And now?").await;
        let files = shown(app);
        assert!(files[0].text.contains("deleted since"), "{files:?}");
        assert_eq!(
            app.get(&format!("{conversation}/messages")).await.json()["data"][0],
            messages["data"][0]
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn only_the_uploader_refers_to_it_and_only_there() {
    with_app(async |app| {
        let (conversation, other) = (app.conversation().await, app.conversation().await);
        let file = upload(app, &conversation, "a.txt", "text/plain", b"of ada")
            .await
            .expect(201)
            .json();
        let turns = format!("{other}/turns");
        let elsewhere = app.post(&turns, with_file("x", &file)).await.problem(422, "invalid");
        let mut missing = file.clone();
        missing["id"] = json!("file_00000000000000000000000000000001");
        let missing = app.post(&turns, with_file("x", &missing)).await.problem(422, "invalid");
        assert_eq!(elsewhere["errors"], missing["errors"], "the two cannot be told apart");
        assert_eq!(elsewhere["errors"][0]["pointer"], "/input/1/file_id");

        // Another user, another tenant, and an administrator, who needs a reason.
        let strangers = [app.token("bob"), app.token_of("globex", "ada", Scopes::CHAT)];
        for stranger in &strangers {
            for method in ["GET", "DELETE"] {
                let call = app.call(method, &path(&file)).by(stranger);
                call.send().await.problem(404, "not_found");
            }
            let body = body(&conversation, "a.txt", "text/plain", b"x");
            let call = app.call("POST", FILES).by(stranger).multipart(body);
            call.send().await.problem(404, "not_found");
        }
        let root = app.token_of("acme", "root", Scopes::ADMIN);
        let call = app.call("GET", &path(&file)).by(&root);
        call.send().await.problem(422, "invalid");
        let call = app.call("GET", &path(&file)).by(&root).header(REASON, "ticket 7");
        assert_eq!(&call.send().await.expect(200).body[..], b"of ada");
        let audit = app
            .call("GET", "/v1/admin/audit")
            .by(&root)
            .send()
            .await
            .expect(200)
            .json();
        assert_eq!(audit["data"][0]["action"], "file.read");
        assert_eq!(audit["data"][0]["target"], file["id"]);

        // Globex's own file with the same content reaches globex's model only.
        let token = app.token_of("globex", "ada", Scopes::CHAT);
        let created = app.call("POST", "/v1/conversations").by(&token).json(&json!({}));
        let theirs = format!("/v1/conversations/{}", created.send().await.expect(201).text("/id"));
        let body = with_file("x", &file);
        let call = app.call("POST", &format!("{theirs}/turns")).by(&token).json(&body);
        call.send().await.problem(422, "invalid");
        assert!(app.model.requests().is_empty(), "no model saw it");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_content_decides_and_what_is_not_accepted_leaves_nothing() {
    let change = "[tenants.files]\ntypes = [\"image/png\", \"text/plain\"]\nmax_bytes = 1000\nquota_bytes = 9000\n";
    with_globex(change, async |app| {
        let token = app.token_of("globex", "ada", Scopes::CHAT);
        let created = app.call("POST", "/v1/conversations").by(&token).json(&json!({}));
        let conversation = created.send().await.expect(201).text("/id");
        let send = async |body: Vec<u8>| app.call("POST", FILES).by(&token).multipart(body).send().await;
        let put = async |name: &str, media_type: &str, content: &[u8]| {
            send(body(&conversation, name, media_type, content)).await
        };
        let image = put("a.txt", "text/plain", PNG).await.expect(201).json();
        assert_eq!(image["media_type"], "image/png");
        for (name, media_type, content) in [
            ("a.pdf", "image/png", &b"%PDF-1.7\n"[..]),
            ("a.zip", "text/plain", b"PK\x03\x04\x14\0\0\0"),
            ("a.csv", "text/csv", b"a,b"),
            ("a.txt", "text/plain", b"latin \xe9"),
        ] {
            let answer = put(name, media_type, content).await;
            answer.problem(415, "unsupported_media_type");
        }
        put("a.txt", "text/plain", &[b'x'; 1001])
            .await
            .problem(413, "too_large");
        put("a.txt", "text/plain", &vec![b'x'; 100_000])
            .await
            .problem(413, "too_large");
        put("a.txt", "text/plain", b"").await.problem(422, "invalid");
        put("a.txt", "text/plain", &[b'x'; 1000]).await.expect(201);
        put("a.txt", "text/plain", &[b'x'; 1000])
            .await
            .problem(403, "quota_exceeded");

        let id = || part("conversation_id", None, None, conversation.as_bytes());
        let file = || part("file", Some("a.txt"), None, b"text");
        let end = || b"--b--\r\n".to_vec();
        for (parts, status, code) in [
            (vec![file(), id(), end()], 422, "invalid"),
            (vec![id(), end()], 422, "invalid"),
            (vec![id(), file(), file(), end()], 422, "invalid"),
            (vec![id(), file()], 400, "malformed"),
            (
                vec![part("conversation_id", None, None, b"conv_1"), file(), end()],
                404,
                "not_found",
            ),
        ] {
            send(parts.concat()).await.problem(status, code);
        }
        let call = app
            .call("POST", FILES)
            .by(&token)
            .json(&json!({ "conversation_id": conversation }));
        call.send().await.problem(415, "unsupported_media_type");
        // Deletions of refused uploads run beside their answers.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(app.files.len(), 2, "what was refused is gone");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_repeated_upload_is_one_file() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let send = async |content: &[u8], key: &str| {
            let body = body(&conversation, "a.txt", "text/plain", content);
            let call = app.ada("POST", FILES).header("idempotency-key", key).multipart(body);
            call.send().await
        };
        let first = send(b"one", "k").await.expect(201).json();
        assert_eq!(send(b"one", "k").await.expect(201).json(), first);
        send(b"two", "k").await.problem(409, "idempotency_key_reused");
        let (left, right) = tokio::join!(send(b"three", "k2"), send(b"three", "k2"));
        assert_eq!(left.expect(201).json(), right.expect(201).json());
        assert_ne!(send(b"one", "k3").await.expect(201).json()["id"], first["id"]);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(app.files.len(), 3);
        // The key is forgotten after a day.
        app.clock.step(25 * HOUR);
        assert_ne!(send(b"two", "k").await.expect(201).json()["id"], first["id"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_no_prompt_refers_to_is_erased_after_a_day() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let used = upload(app, &conversation, "a.txt", "text/plain", b"used")
            .await
            .expect(201)
            .json();
        let unused = upload(app, &conversation, "b.txt", "text/plain", b"unused")
            .await
            .expect(201)
            .json();
        let turn = app
            .post(&format!("{conversation}/turns"), with_file("x", &used))
            .await
            .expect(202);
        app.turn_is(&format!("/v1/turns/{}", turn.text("/id")), "completed")
            .await;
        app.clock.step(23 * HOUR);
        app.app.state.jobs.sweep_files().await;
        assert_eq!(app.files.len(), 2);
        app.clock.step(2 * HOUR);
        app.app.state.jobs.sweep_files().await;
        app.get(&path(&used)).await.expect(200);
        app.get(&path(&unused)).await.problem(404, "not_found");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_prompt_keeps_no_file_and_a_repeated_one_needs_none() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let upload = async |name: &str| {
            let answer = upload(app, &conversation, name, "text/plain", b"content").await;
            answer.expect(201).json()
        };
        let (asked, refused) = (upload("a.txt").await, upload("b.txt").await);
        let turns = format!("{conversation}/turns");
        let submit = async |file: &Value, key: &str| {
            let call = app.ada("POST", &turns).header("idempotency-key", key);
            call.json(&with_file("x", file)).send().await
        };
        let turn = submit(&asked, "k").await.expect(202).text("/id");
        app.turn_is(&format!("/v1/turns/{turn}"), "completed").await;
        // Another body with the key, too many files, and a conversation of somebody else.
        submit(&refused, "k").await.problem(409, "idempotency_key_reused");
        let mut many = with_file("x", &refused);
        let part = many["input"][1].clone();
        many["input"].as_array_mut().unwrap().extend(vec![part; 8]);
        app.post(&turns, many).await.problem(422, "invalid");
        let bob = app.token("bob");
        let call = app.call("POST", &turns).by(&bob).json(&with_file("x", &refused));
        call.send().await.problem(404, "not_found");
        app.clock.step(HOUR);
        app.ada("DELETE", &path(&asked)).send().await.expect(204);
        assert_eq!(submit(&asked, "k").await.expect(202).text("/id"), turn);
        submit(&asked, "k2").await.problem(422, "invalid");
        app.clock.step(24 * HOUR);
        app.app.state.jobs.sweep_files().await;
        app.get(&path(&refused)).await.problem(404, "not_found");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn another_content_under_a_used_key_is_not_what_a_prompt_referred_to() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let send = async |content: &[u8]| {
            let body = body(&conversation, "a.txt", "text/plain", content);
            let call = app.ada("POST", FILES).header("idempotency-key", "k").multipart(body);
            call.send().await.expect(201).json()
        };
        let first = send(b"one").await;
        let turns = format!("{conversation}/turns");
        let turn = app.post(&turns, with_file("x", &first)).await.expect(202);
        app.turn_is(&format!("/v1/turns/{}", turn.text("/id")), "completed")
            .await;
        app.ada("DELETE", &path(&first)).send().await.expect(204);
        assert_eq!(send(b"two").await["id"], first["id"]);
        let turn = app.post(&turns, json!({ "input": "And now?" })).await.expect(202);
        app.turn_is(&format!("/v1/turns/{}", turn.text("/id")), "completed")
            .await;
        let shown = format!("{:?}", shown(app));
        assert!(shown.contains("deleted") && !shown.contains("two"), "{shown}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_reads_images_gets_them_and_the_record_has_no_content() {
    let reading = text("").replace(
        "context_tokens = 128000",
        "context_tokens = 128000, reads = [\"image\"]",
    );
    with_config(&reading, async |app| {
        let conversation = app.conversation().await;
        let image = upload(app, &conversation, "a.png", "image/png", PNG)
            .await
            .expect(201)
            .json();
        let pdf = upload(app, &conversation, "b.pdf", "application/pdf", b"%PDF-1.7\nx")
            .await
            .expect(201)
            .json();
        let input = json!([
            { "type": "file", "file_id": image["id"] },
            { "type": "file", "file_id": pdf["id"] },
        ]);
        let turn = app
            .post(&format!("{conversation}/turns"), json!({ "input": input }))
            .await
            .expect(202);
        let turn = format!("/v1/turns/{}", turn.text("/id"));
        app.turn_is(&turn, "completed").await;
        let files = shown(app);
        assert_eq!(files.len(), 2);
        let of = |name: &str| files.iter().find(|file| file.info.name == name).unwrap();
        assert_eq!(of("a.png").content.as_ref().unwrap().bytes(), PNG);
        assert!(of("b.pdf").content.is_none());
        assert!(of("b.pdf").text.contains("not readable by this model"), "{files:?}");

        let root = app.token_of("acme", "root", Scopes::ADMIN);
        let prompts = format!("/v1/admin{}/prompts", turn.strip_prefix("/v1").unwrap());
        let call = app.call("GET", &prompts).by(&root).header(REASON, "ticket 7");
        let prompt = call.send().await.expect(200).json()["data"][0].clone();
        assert_eq!(prompt["exact"], true, "{prompt:#}");
        let recorded = prompt["messages"]
            .as_array()
            .unwrap()
            .iter()
            .find(|message| message["files"].is_array());
        let recorded = recorded.unwrap()["files"].as_array().unwrap();
        assert_eq!(recorded.len(), 2);
        assert!(recorded.iter().all(|file| file["sha256"].as_str().unwrap().len() == 64));
        let kinds = prompt["included"].as_array().unwrap().iter();
        assert_eq!(kinds.filter(|item| item["kind"] == "file").count(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn guardrails_inspect_the_text_of_a_file() {
    let change = r#"
        deny_input = [{ name = "secret", literal = "Bluebird", action = "block" }]
    "#;
    // Rules of a tenant stand before its tables.
    let config = text("").replace("id = \"acme\"", &format!("id = \"acme\"\n{change}"));
    with_config(&config, async |app| {
        let conversation = app.conversation().await;
        let file = upload(app, &conversation, "a.txt", "text/plain", b"the Bluebird plan")
            .await
            .expect(201)
            .json();
        let turn = app
            .post(&format!("{conversation}/turns"), with_file("Read it", &file))
            .await
            .expect(202);
        app.turn_is(&format!("/v1/turns/{}", turn.text("/id")), "completed")
            .await;
        let files = shown(app);
        assert!(
            files[0].text.contains("withheld by a content rule"),
            "{}",
            files[0].text
        );
        assert!(!files[0].text.contains("Bluebird"));
    })
    .await;
}
