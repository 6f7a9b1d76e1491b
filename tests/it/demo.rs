//! The demo's copilots answer from their tenant's help articles and cite them.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::live::child::Child;

/// A running demo.
struct Demo {
    child: Child,
    about: Value,
}

impl Demo {
    async fn start(around: &Path) -> Self {
        let data = around.join("data");
        let arguments = ["demo", "--port", "0", "--data-dir", data.to_str().unwrap()];
        let program = Path::new(env!("CARGO_BIN_EXE_copilotd"));
        let mut child = Child::start(program, &arguments, &[], &around.join("log")).await;
        let ready = |log: &str| log.contains("continues where it stopped.").then_some(());
        child
            .wait_for(ready)
            .await
            .unwrap_or_else(|| panic!("{}", child.output()));
        let about = serde_json::from_slice(&std::fs::read(data.join("demo.json")).unwrap()).unwrap();
        Self { child, about }
    }

    fn token(&self, tenant: &str, user: &str) -> String {
        self.about["tenants"][tenant]["users"][user]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.about["base_url"].as_str().unwrap())
    }

    async fn post(&self, token: &str, path: &str, body: Value) -> Value {
        let request = reqwest::Client::new().post(self.url(path)).bearer_auth(token);
        request.json(&body).send().await.unwrap().json().await.unwrap()
    }

    async fn get(&self, token: &str, path: &str) -> String {
        let request = reqwest::Client::new().get(self.url(path)).bearer_auth(token);
        request.send().await.unwrap().text().await.unwrap()
    }

    /// Asks in a conversation and returns the turn once it has ended.
    async fn ask_in(&self, token: &str, conversation: &str, question: &str) -> Value {
        let path = format!("/v1/conversations/{conversation}/turns");
        let turn = self.post(token, &path, json!({"input": question})).await;
        let id = turn["id"].as_str().unwrap();
        // The stream ends with the turn.
        self.get(token, &format!("/v1/turns/{id}/events")).await;
        serde_json::from_str(&self.get(token, &format!("/v1/turns/{id}")).await).unwrap()
    }

    /// Asks as a user in a new conversation.
    async fn ask(&self, (tenant, user): (&str, &str), question: &str) -> Value {
        let token = self.token(tenant, user);
        let conversation = self.post(&token, "/v1/conversations", json!({})).await;
        self.ask_in(&token, conversation["id"].as_str().unwrap(), question)
            .await
    }
}

/// Returns title and quote of each citation of a turn's answer.
fn cited(turn: &Value) -> Vec<(&str, &str)> {
    assert_eq!(turn["status"], "completed", "{turn}");
    let text = turn["output"]["text"].as_str().unwrap();
    assert!(!text.contains("[cite"), "{text}");
    let citations = turn["output"]["citations"].as_array().unwrap().iter();
    let cited = citations.map(|citation| {
        let part = |name: &str| citation[name].as_str().unwrap();
        assert!(text.starts_with(part("quote")), "{turn}");
        assert!(part("uri").starts_with("https://help."), "{turn}");
        (part("title"), part("quote"))
    });
    cited.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copilots_cite_the_articles_of_their_tenant_that_their_user_may_read() {
    let around = TempDir::new().unwrap();
    let mut demo = Demo::start(around.path()).await;
    let refund = "How long does a refund take?";
    let credit = "How much goodwill credit may I grant?";
    let acme = (
        "Refunds and invoices",
        "A refund reaches the customer's account within five working days after billing has approved it.",
    );
    let globex = (
        "Returns and refunds",
        "Refunds are paid within ten working days after the parcel has arrived in our warehouse.",
    );
    let goodwill = (
        "Goodwill credits",
        "Support may grant a goodwill credit of up to 50 dollars per customer and quarter.",
    );
    let cases = [
        (("acme", "ada"), refund, vec![acme]),
        (("acme", "bob"), refund, vec![acme]),
        (("globex", "ada"), refund, vec![globex]),
        (("acme", "ada"), credit, vec![goodwill]),
        (("acme", "bob"), credit, vec![]),
        (("globex", "ada"), credit, vec![]),
        (("acme", "ada"), "Hello!", vec![]),
        (("acme", "ada"), "What is the weather like?", vec![]),
    ];
    for (who, question, expected) in cases {
        let turn = demo.ask(who, question).await;
        assert_eq!(cited(&turn), expected, "{who:?} {question}");
    }
    // A follow-up is rewritten.
    let token = demo.token("acme", "ada");
    let conversation = demo.post(&token, "/v1/conversations", json!({})).await;
    let conversation = conversation["id"].as_str().unwrap();
    demo.ask_in(&token, conversation, refund).await;
    let turn = demo.ask_in(&token, conversation, "And for annual plans?").await;
    let annual = "Monthly plans can be refunded within 14 days of the charge, annual plans within 30 days.";
    assert_eq!(cited(&turn), [("Refunds and invoices", annual)]);
    // After a kill the articles are there as before.
    demo.child.kill().await;
    let again = Demo::start(around.path()).await;
    assert_eq!(cited(&again.ask(("acme", "ada"), refund).await), [acme]);
    let same = |turn: &Value| turn["output"]["citations"][0]["document_id"].clone();
    let later = again.ask(("acme", "bob"), "Can annual plans be refunded?").await;
    assert_eq!(same(&later), same(&turn));
}
