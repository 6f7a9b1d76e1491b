//! A user: follows the steps of the schedule and remembers what was acknowledged.

use std::sync::Arc;

use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::findings::Promise;
use crate::schedule::{Act, Kind, Order, Then, User, WhenBusy};
use crate::support::transcript::Transcript;
use crate::watcher::{ATTENTIVE, Watcher};

/// The ticket that gets comments.
const TICKET: u64 = 102;

/// A conversation, as its user remembers it.
pub struct UserConversation {
    pub client: Client,
    pub tenant: usize,
    pub id: String,
    /// Part of everything that is said in the conversation.
    pub secret: String,
    /// The last title that was acknowledged.
    pub title: String,
    /// Whether the deletion was acknowledged.
    pub erased: bool,
    pub watcher: Watcher,
    pub asks: Vec<Arc<Submission>>,
}

/// A submitted turn.
pub struct Submission {
    /// Part of its input and of everything that it changes outside.
    pub mark: String,
    pub key: String,
    pub body: Value,
    pub order: Order,
    pub submitted: Submitted,
    pub watcher: Option<Watcher>,
    pub told: Mutex<Acknowledgements>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Submitted {
    /// Acknowledged with this turn id.
    Acknowledged(String),
    Refused(u16, String),
    /// Nobody waited for the answer.
    Unknown,
}

/// What the user was told about a turn later.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Acknowledgements {
    /// Terminal status in the answer to a cancellation.
    pub ended: Option<String>,
    /// The decision that was acknowledged.
    pub approved: Option<bool>,
}

impl Submission {
    pub fn turn(&self) -> Option<&str> {
        match &self.submitted {
            Submitted::Acknowledged(turn) => Some(turn),
            _ => None,
        }
    }
}

/// Ids of what all users created, for those who try to access it.
#[derive(Default)]
pub struct CreatedIds(Mutex<Vec<CreatedId>>);

#[derive(Clone)]
pub struct CreatedId {
    pub tenant: usize,
    pub user: String,
    pub conversation: String,
    pub turn: Option<String>,
}

impl CreatedIds {
    fn add(&self, made: CreatedId) {
        self.0.lock().push(made);
    }

    /// Returns the newest item of another tenant, and the newest of another user.
    fn of_others(&self, tenant: usize, user: &str) -> Vec<CreatedId> {
        let made = self.0.lock();
        let newest = |find: &dyn Fn(&&CreatedId) -> bool| made.iter().rev().find(find).cloned();
        [
            newest(&|made| made.tenant != tenant),
            newest(&|made| made.tenant == tenant && made.user != user),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Runs a user; returns all its conversations.
pub async fn live(
    client: Client,
    plan: User,
    seed: u64,
    lasts: std::time::Duration,
    others: Arc<CreatedIds>,
) -> Vec<UserConversation> {
    let mut life = UserRun {
        client,
        plan: plan.clone(),
        seed,
        others,
        talks: Vec::new(),
        asked: 0,
        later: JoinSet::new(),
    };
    for step in plan.steps {
        tokio::time::sleep(step.pause).await;
        if life.client.shared.history.elapsed() >= lasts {
            break;
        }
        life.act(step.act).await;
    }
    life.later.join_all().await;
    life.talks
}

struct UserRun {
    client: Client,
    plan: User,
    seed: u64,
    others: Arc<CreatedIds>,
    talks: Vec<UserConversation>,
    asked: usize,
    /// Pending cancellations and decisions.
    later: JoinSet<()>,
}

impl UserRun {
    async fn act(&mut self, act: Act) -> Option<()> {
        match act {
            Act::Open { careful } => self.open(careful).await?,
            Act::Submit(order) => self.submit(order).await?,
            Act::Rename => self.rename().await?,
            Act::Erase => self.erase().await?,
            Act::Trespass => self.trespass().await?,
        }
        Some(())
    }

    async fn open(&mut self, careful: bool) -> Option<()> {
        let n = self.talks.len();
        let user = &self.plan.name;
        let secret = format!("secret-{:x}-{user}-{n}.", self.seed);
        let copilot = if careful { "careful" } else { "support" };
        let body = json!({ "copilot": copilot, "title": format!("About {secret}"), "metadata": { "case": secret } });
        let key = format!("{user}-open-{n}");
        let (status, view) = self
            .client
            .ask(Method::POST, "/v1/conversations", Some(&key), Some(&body))
            .await?;
        if status != 201 {
            self.client.shared.findings.add(
                Promise::Kept,
                None,
                format!("creating a conversation for {user} was answered with status {status} {view}"),
            );
            return None;
        }
        let id = view["id"].as_str().unwrap_or_default().to_owned();
        self.client.shared.history.about(&id, format!("created by {user}"));
        self.others.add(CreatedId {
            tenant: self.plan.tenant,
            user: user.clone(),
            conversation: id.clone(),
            turn: None,
        });
        let path = format!("/v1/conversations/{id}/events?after=0");
        self.talks.push(UserConversation {
            watcher: Watcher::open(&self.client, &id, path, ATTENTIVE),
            client: self.client.clone(),
            tenant: self.plan.tenant,
            id,
            title: format!("About {secret}"),
            secret,
            erased: false,
            asks: Vec::new(),
        });
        Some(())
    }

    /// Returns the user's current conversation, creating one if necessary.
    async fn present(&mut self) -> Option<&mut UserConversation> {
        if self.talks.last().is_none_or(|talk| talk.erased) {
            self.open(false).await?;
        }
        self.talks.last_mut()
    }

    async fn submit(&mut self, order: Order) -> Option<()> {
        self.asked += 1;
        let mark = format!("mark-{:x}-{}-{}.", self.seed, self.plan.name, self.asked);
        let key = format!("{}-turn-{}", self.plan.name, self.asked);
        let (tenant, user, client) = (self.plan.tenant, self.plan.name.clone(), self.client.clone());
        let talk = self.present().await?;
        let mut body = json!({ "input": input(&order.kind, &mark, &talk.secret) });
        match order.when_busy {
            WhenBusy::Enqueue => {}
            WhenBusy::Reject => body["when_busy"] = json!("reject"),
            WhenBusy::Interrupt => body["when_busy"] = json!("interrupt"),
        }
        let path = format!("/v1/conversations/{}/turns", talk.id);
        let answer = match order.then {
            Then::Leave { after } => client
                .attempt(Method::POST, &path, Some(&key), Some(&body), after)
                .await
                .ok(),
            _ => Some(client.ask(Method::POST, &path, Some(&key), Some(&body)).await?),
        };
        let submitted = match answer {
            Some((202, turn)) => Submitted::Acknowledged(turn["id"].as_str().unwrap_or_default().to_owned()),
            Some((503, _)) | None => Submitted::Unknown,
            Some((status, problem)) => {
                Submitted::Refused(status, problem["code"].as_str().unwrap_or_default().to_owned())
            }
        };
        let said = format!(
            "{user} submitted {mark} {:?} {:?} {:?}: {submitted:?}",
            order.kind, order.then, order.when_busy
        );
        client.shared.history.about(&talk.id, said);
        if let Submitted::Refused(status, code) = &submitted
            && !matches!((status, code.as_str()), (409, "turn_running") | (429, _))
        {
            let what = format!("{mark} was refused: {status} {code}");
            client.shared.findings.add(Promise::Kept, Some(&talk.id), what);
        }
        let mut ask = Submission {
            mark,
            key,
            body,
            submitted,
            watcher: None,
            told: Mutex::default(),
            order,
        };
        let turn = ask.turn().map(str::to_owned);
        if let Some(turn) = &turn {
            let path = format!("/v1/turns/{turn}/events");
            ask.watcher = Some(Watcher::open(&client, &talk.id, path, ask.order.reading));
        }
        let ask = Arc::new(ask);
        let conversation = talk.id.clone();
        talk.asks.push(Arc::clone(&ask));
        let turn = turn?;
        self.others.add(CreatedId {
            tenant,
            user,
            conversation: conversation.clone(),
            turn: Some(turn.clone()),
        });
        self.later.spawn(later(client.clone(), conversation, Arc::clone(&ask)));
        let ended = ask.watcher.as_ref()?.until(&client, |seen| seen.ended(&turn));
        let _ = tokio::time::timeout(ask.order.looks_on, ended).await;
        Some(())
    }

    async fn rename(&mut self) -> Option<()> {
        let client = self.client.clone();
        let talk = self.present().await?;
        let title = format!("Again about {} {}", talk.secret, talk.asks.len());
        let body = json!({ "title": title });
        let path = format!("/v1/conversations/{}", talk.id);
        let (status, view) = client.ask(Method::PATCH, &path, None, Some(&body)).await?;
        if status != 200 || view["title"] != title.as_str() {
            let what = format!("renaming was answered with status {status} {view}");
            client.shared.findings.add(Promise::Kept, Some(&talk.id), what);
        }
        talk.title = title;
        Some(())
    }

    async fn erase(&mut self) -> Option<()> {
        let client = self.client.clone();
        let talk = self.present().await?;
        let path = format!("/v1/conversations/{}", talk.id);
        client.shared.history.about(&talk.id, "deleting");
        let (status, body) = client.ask(Method::DELETE, &path, None, None).await?;
        // A copy of a request whose answer was lost gets 404.
        if status != 204 && status != 404 {
            let what = format!("deletion was answered with status {status} {body}");
            client.shared.findings.add(Promise::Kept, Some(&talk.id), what);
        }
        client
            .shared
            .history
            .about(&talk.id, format!("deleted, status {status}"));
        talk.erased = true;
        Some(())
    }

    /// Everything that belongs to somebody else must be answered with 404.
    async fn trespass(&mut self) -> Option<()> {
        for made in self.others.of_others(self.plan.tenant, &self.plan.name) {
            let conversation = format!("/v1/conversations/{}", made.conversation);
            let mut requests = vec![
                (Method::GET, conversation.clone(), None),
                (Method::GET, format!("{conversation}/messages"), None),
                (Method::GET, format!("{conversation}/events?after=0"), None),
                (Method::PATCH, conversation.clone(), Some(json!({ "title": "mine" }))),
                (
                    Method::POST,
                    format!("{conversation}/turns"),
                    Some(json!({ "input": "mine" })),
                ),
                (Method::DELETE, conversation.clone(), None),
            ];
            if let Some(turn) = &made.turn {
                requests.push((Method::GET, format!("/v1/turns/{turn}"), None));
                requests.push((Method::GET, format!("/v1/turns/{turn}/events"), None));
                requests.push((Method::POST, format!("/v1/turns/{turn}/cancel"), None));
            }
            for (method, path, body) in requests {
                let (status, answer) = self.client.ask(method.clone(), &path, None, body.as_ref()).await?;
                if status != 404 {
                    let what = format!(
                        "{}, who has no access, was answered with status {status} to {method} {path}: {answer}",
                        self.plan.name
                    );
                    let findings = &self.client.shared.findings;
                    findings.add(Promise::Tenants, Some(&made.conversation), what);
                }
            }
        }
        Some(())
    }
}

/// Acts on a turn while its user continues with the next one.
async fn later(client: Client, conversation: String, ask: Arc<Submission>) {
    let (Some(turn), Some(watcher)) = (ask.turn(), &ask.watcher) else {
        return;
    };
    match ask.order.then {
        Then::Wait | Then::Leave { .. } => {}
        // Nothing else asks for approval.
        Then::Decide { .. } if ask.order.kind != Kind::Ticket => {}
        Then::Cancel { after } => {
            tokio::time::sleep(after).await;
            let path = format!("/v1/turns/{turn}/cancel");
            let Some((status, view)) = client.ask(Method::POST, &path, None, None).await else {
                return;
            };
            let ended = view["status"].as_str().unwrap_or_default().to_owned();
            client
                .shared
                .history
                .about(&conversation, format!("{} was cancelled: {status} {ended}", ask.mark));
            // 404: it was deleted meanwhile.
            if status != 202 && status != 404 {
                let what = format!("cancellation was answered with status {status} {view}");
                client.shared.findings.add(Promise::Kept, Some(&conversation), what);
            }
            if status == 202 && ["completed", "failed", "cancelled"].contains(&ended.as_str()) {
                ask.told.lock().ended = Some(ended);
            }
        }
        Then::Decide { approve } => {
            let decidable = |seen: &Transcript| seen.has("approval.requested") || seen.ended(turn) || seen.gone;
            if !watcher.until(&client, decidable).await {
                let what = format!("{}: {turn} neither asked for approval nor ended", ask.mark);
                client.shared.findings.add(Promise::Kept, Some(&conversation), what);
            }
            let call = watcher.look(|seen| {
                let asked = seen.durable.iter().find(|event| event.name == "approval.requested");
                asked.and_then(|event| Some(event.data["call_id"].as_str()?.to_owned()))
            });
            let Some(call) = call else { return };
            let decision = if approve { "approve" } else { "reject" };
            let path = format!("/v1/turns/{turn}/approvals/{call}");
            let body = json!({ "decision": decision });
            let Some((status, view)) = client.ask(Method::POST, &path, None, Some(&body)).await else {
                return;
            };
            let said = format!("{} was decided, {decision}: {status}", ask.mark);
            client.shared.history.about(&conversation, said);
            match status {
                202 => ask.told.lock().approved = Some(approve),
                // It was interrupted or deleted.
                404 | 409 => {}
                _ => {
                    let what = format!("decision was answered with status {status} {view}");
                    client.shared.findings.add(Promise::Kept, Some(&conversation), what);
                }
            }
        }
    }
}

/// Returns the user's input: a mark for the turn, the conversation's secret, and a directive for the simulated model.
fn input(kind: &Kind, mark: &str, secret: &str) -> String {
    let directive = match kind {
        Kind::Words { count, pace_ms } => format!("tokens={count} pace_ms={pace_ms}"),
        Kind::Secret { times } => {
            let times = usize::try_from(*times).unwrap_or_default();
            format!("text={} chunk=40", json!(format!("{secret} ").repeat(times).trim_end()))
        }
        Kind::LookUp => format!("tool=zendesk_get_ticket args={}", json!({ "ticket_id": TICKET - 1 })),
        Kind::Ticket => format!(
            "tool=zendesk_create_ticket args={}",
            json!({ "subject": mark, "body": secret })
        ),
        Kind::Comment => {
            let arguments = json!({ "ticket_id": TICKET, "body": format!("{mark} {secret}"), "public": false });
            format!("tool=zendesk_add_comment args={arguments}")
        }
        Kind::Post => {
            let arguments = json!({ "channel": "#support", "text": format!("{mark} {secret}") });
            format!("tool=slack_post_message args={arguments}")
        }
    };
    format!("{mark} {secret} [[sim {directive}]]")
}
