//! Tickets, comments and people, and their JSON form in Zendesk.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ticket {
    pub(crate) id: u64,
    pub(crate) subject: String,
    pub(crate) status: String,
    pub(crate) priority: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) requester_id: u64,
    pub(crate) submitter_id: u64,
    pub(crate) assignee_id: Option<u64>,
    pub(crate) tags: Vec<String>,
    pub(crate) external_id: Option<String>,
    pub(crate) custom_fields: Value,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) comments: Vec<Comment>,
    /// What each change did, oldest first, in Zendesk's audit format.
    pub(crate) audits: Vec<Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Comment {
    pub(crate) id: u64,
    pub(crate) author_id: u64,
    pub(crate) author_is_agent: bool,
    pub(crate) body: String,
    pub(crate) public: bool,
    pub(crate) created_at: Timestamp,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) role: Cow<'static, str>,
    pub(crate) external_id: Option<String>,
    pub(crate) created_at: Timestamp,
}

/// Returns the time in whole seconds, Zendesk's resolution.
pub(crate) fn now() -> Timestamp {
    let seconds = Timestamp::now().as_second();
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Ticket {
    /// Whether it waits for an agent: open or new, without a public agent comment since the requester's last one.
    pub(crate) fn is_unread(&self) -> bool {
        let last_public = self.comments.iter().rev().find(|comment| comment.public);
        ["new", "open"].contains(&self.status.as_str()) && last_public.is_none_or(|comment| !comment.author_is_agent)
    }

    /// Records a change; the time grows even within one second.
    pub(crate) fn touch(&mut self) {
        let next = self.updated_at + jiff::SignedDuration::from_secs(1);
        self.updated_at = now().max(next);
    }

    pub(crate) fn description(&self) -> &str {
        self.comments.first().map_or("", |comment| &comment.body)
    }

    pub(crate) fn to_json(&self, origin: &str) -> Value {
        json!({
            "url": format!("{origin}/api/v2/tickets/{}.json", self.id),
            "id": self.id,
            "external_id": self.external_id,
            "via": {"channel": "api", "source": {"from": {}, "to": {}, "rel": null}},
            "created_at": self.created_at.to_string(),
            "updated_at": self.updated_at.to_string(),
            "generated_timestamp": self.updated_at.as_second(),
            "type": self.kind,
            "subject": self.subject,
            "raw_subject": self.subject,
            "description": self.description(),
            "priority": self.priority,
            "status": self.status,
            "recipient": null,
            "requester_id": self.requester_id,
            "submitter_id": self.submitter_id,
            "assignee_id": self.assignee_id,
            "organization_id": null,
            "group_id": null,
            "collaborator_ids": [],
            "follower_ids": [],
            "email_cc_ids": [],
            "forum_topic_id": null,
            "problem_id": null,
            "has_incidents": false,
            "is_public": self.comments.iter().any(|comment| comment.public),
            "due_at": null,
            "tags": self.tags,
            "custom_fields": self.custom_fields,
            "satisfaction_rating": {"score": "unoffered"},
            "sharing_agreement_ids": [],
            "custom_status_id": null,
            "fields": self.custom_fields,
            "followup_ids": [],
            "brand_id": 1,
            "allow_channelback": false,
            "allow_attachments": true,
            "from_messaging_channel": false,
        })
    }
}

impl Comment {
    pub(crate) fn to_json(&self) -> Value {
        let html: String = self
            .body
            .chars()
            .map(|character| match character {
                '&' => "&amp;".to_owned(),
                '<' => "&lt;".to_owned(),
                '>' => "&gt;".to_owned(),
                '\n' => "<br>\n".to_owned(),
                character => character.to_string(),
            })
            .collect();
        json!({
            "id": self.id,
            "type": "Comment",
            "author_id": self.author_id,
            "body": self.body,
            "html_body": format!("<div class=\"zd-comment\" dir=\"auto\"><p dir=\"auto\">{html}</p></div>"),
            "plain_body": self.body,
            "public": self.public,
            "attachments": [],
            "audit_id": self.id + 1_000_000,
            "via": {"channel": "api", "source": {"from": {}, "to": {}, "rel": null}},
            "created_at": self.created_at.to_string(),
            "metadata": {"system": {}, "custom": {}},
        })
    }
}

impl User {
    pub(crate) fn is_agent(&self) -> bool {
        self.role != "end-user"
    }

    pub(crate) fn to_json(&self, origin: &str) -> Value {
        json!({
            "id": self.id,
            "url": format!("{origin}/api/v2/users/{}.json", self.id),
            "name": self.name,
            "email": self.email,
            "created_at": self.created_at.to_string(),
            "updated_at": self.created_at.to_string(),
            "time_zone": "UTC",
            "iana_time_zone": "Etc/UTC",
            "phone": null,
            "shared_phone_number": null,
            "photo": null,
            "locale_id": 1,
            "locale": "en-US",
            "organization_id": null,
            "role": self.role,
            "verified": true,
            "external_id": self.external_id,
            "tags": [],
            "alias": "",
            "active": true,
            "shared": false,
            "shared_agent": false,
            "last_login_at": null,
            "signature": null,
            "details": "",
            "notes": "",
            "suspended": false,
            "default_group_id": null,
            "report_csv": false,
            "user_fields": {},
        })
    }
}
