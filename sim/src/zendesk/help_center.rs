//! The help centre: articles with translations, drafts, user segments and an archive.
//!
//! The published description of the API does not contain it. Its source is the vendor's documentation at
//! developer.zendesk.com (read in November 2026): "Articles", "Translations" and "User Segments" in the Help Center API
//! reference, and "Understanding incremental article exports". What follows from it:
//! - `GET /help_center/incremental/articles?start_time=` returns up to 1,000 articles of which anything changed at or
//!   after the time, oldest change first, with `next_page` and `end_time`, the time of the last one's change. It needs an
//!   agent, and shows drafts too.
//! - An article that is archived (`DELETE`) is in no list any more, the incremental one included.
//! - `draft` belongs to a translation; the article shows that of its source locale.
//! - `user_segment_id: null` means everybody; `user_segment_ids` (Enterprise plans) any of several segments.
//!
//! Simplified: there are no sections, attachments or comments, and every segment id is accepted.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::model::now;
use super::{Zendesk, json_ok, not_found, paging};
use crate::http::{Reply, Request};
use crate::knobs::Knobs;

/// Articles of a page of the incremental list.
const EXPORT_PAGE: usize = 1000;
const SOURCE_LOCALE: &str = "en-us";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Article {
    id: u64,
    section_id: u64,
    label_names: Vec<String>,
    user_segment_id: Option<u64>,
    user_segment_ids: Vec<u64>,
    created_at: Timestamp,
    updated_at: Timestamp,
    /// The first one is the source.
    translations: Vec<Translation>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Translation {
    id: u64,
    locale: String,
    title: String,
    /// As it was written; a test may write something else than a text.
    body: Value,
    draft: bool,
    updated_at: Timestamp,
}

impl Article {
    fn to_json(&self, origin: &str) -> Value {
        let source = &self.translations[0];
        json!({
            "id": self.id,
            "url": format!("{origin}/api/v2/help_center/articles/{}.json", self.id),
            "html_url": address(origin, &source.locale, self.id),
            "author_id": super::fixtures::ADMIN,
            "comments_disabled": false,
            "content_tag_ids": [],
            "draft": source.draft,
            "promoted": false,
            "position": 0,
            "vote_sum": 0,
            "vote_count": 0,
            "section_id": self.section_id,
            "created_at": self.created_at.to_string(),
            "updated_at": self.updated_at.to_string(),
            "edited_at": source.updated_at.to_string(),
            "name": source.title,
            "title": source.title,
            "source_locale": source.locale,
            "locale": source.locale,
            "outdated": false,
            "outdated_locales": [],
            "user_segment_id": self.user_segment_id,
            "user_segment_ids": self.user_segment_ids,
            "permission_group_id": 1,
            "label_names": self.label_names,
            "body": source.body,
        })
    }

    fn translation(&self, origin: &str, translation: &Translation) -> Value {
        json!({
            "id": translation.id,
            "url": format!("{origin}/api/v2/help_center/articles/{}/translations/{}.json", self.id, translation.locale),
            "html_url": address(origin, &translation.locale, self.id),
            "source_id": self.id,
            "source_type": "Article",
            "locale": translation.locale,
            "title": translation.title,
            "body": translation.body,
            "outdated": false,
            "draft": translation.draft,
            "hidden": false,
            "created_at": self.created_at.to_string(),
            "updated_at": translation.updated_at.to_string(),
            "created_by_id": super::fixtures::ADMIN,
            "updated_by_id": super::fixtures::ADMIN,
        })
    }

    /// Records a change; the time grows even within one second.
    fn touch(&mut self) {
        let next = self.updated_at + jiff::SignedDuration::from_secs(1);
        self.updated_at = now().max(next);
    }
}

fn address(origin: &str, locale: &str, id: u64) -> String {
    format!("{origin}/hc/{locale}/articles/{id}")
}

/// Answers everything under `/help_center`.
pub(crate) fn route(zendesk: &mut Zendesk, request: &Request, path: &[&str], caller: u64, knobs: &Knobs) -> Reply {
    let is_agent = zendesk.user(caller).is_some_and(super::User::is_agent);
    if !is_agent {
        return Reply::json(403, json!({"error": "Forbidden", "description": "Agents only."}));
    }
    let id = |text: &str| text.parse::<u64>().ok();
    let origin = request.origin();
    match (request.method.as_str(), path) {
        ("GET", ["articles"]) => {
            let shown = zendesk.articles.iter().map(|article| article.to_json(&origin));
            paging::page(request, "articles", shown.collect())
        }
        ("GET", ["incremental", "articles"]) => changed(zendesk, request, knobs),
        ("GET", ["articles", article]) => match id(article).and_then(|id| find(zendesk, id)) {
            Some(article) => json_ok(json!({"article": article.to_json(&origin)})),
            None => not_found(),
        },
        ("GET", ["articles", article, "translations"]) => match id(article).and_then(|id| find(zendesk, id)) {
            Some(article) => {
                let all = article.translations.iter();
                let shown = all.map(|translation| article.translation(&origin, translation));
                paging::page(request, "translations", shown.collect())
            }
            None => not_found(),
        },
        ("POST", ["sections", section, "articles"]) => create(zendesk, request, id(section).unwrap_or_default()),
        ("PUT", ["articles", article]) => {
            let wanted = member(request, "article");
            change(zendesk, request, id(article), |article| set_metadata(article, &wanted))
        }
        ("PUT", ["articles", article, "translations", locale]) => {
            let wanted = member(request, "translation");
            change(zendesk, request, id(article), |article| {
                let at = article.translations.iter().position(|known| known.locale == *locale);
                at.map(|at| set_translation(&mut article.translations[at], &wanted))
                    .is_some()
            })
        }
        ("POST", ["articles", article, "translations"]) => {
            let wanted = member(request, "translation");
            let new = zendesk.new_id();
            change(zendesk, request, id(article), |article| {
                article.translations.push(translation(new, &wanted));
                true
            })
        }
        ("DELETE", ["articles", article]) => {
            let Some(at) = id(article).and_then(|id| zendesk.articles.iter().position(|known| known.id == id)) else {
                return not_found();
            };
            zendesk.articles.remove(at);
            zendesk.version += 1;
            Reply::text(204, "").changed()
        }
        _ => not_found(),
    }
}

fn find(zendesk: &Zendesk, id: u64) -> Option<&Article> {
    zendesk.articles.iter().find(|article| article.id == id)
}

/// The incremental list.
fn changed(zendesk: &Zendesk, request: &Request, knobs: &Knobs) -> Reply {
    let Some(start) = request.param("start_time").and_then(|text| text.parse::<i64>().ok()) else {
        return Reply::json(
            400,
            json!({"error": "InvalidValue", "description": "start_time is required"}),
        );
    };
    let size = knobs.export_page.unwrap_or(EXPORT_PAGE).clamp(1, EXPORT_PAGE);
    let mut articles: Vec<&Article> = zendesk.articles.iter().collect();
    articles.retain(|article| article.updated_at.as_second() >= start);
    articles.sort_by_key(|article| (article.updated_at, article.id));
    let total = articles.len();
    articles.truncate(size);
    let end = articles.last().map_or(start, |article| article.updated_at.as_second());
    let origin = request.origin();
    let next = format!("{origin}/api/v2/help_center/incremental/articles.json?start_time={end}");
    let shown: Vec<Value> = articles.iter().map(|article| article.to_json(&origin)).collect();
    json_ok(json!({
        "articles": shown,
        "count": total,
        "end_time": end,
        "next_page": (total > size).then_some(next),
        "sort_by": "updated_at",
        "sort_order": "asc",
    }))
}

fn create(zendesk: &mut Zendesk, request: &Request, section_id: u64) -> Reply {
    let wanted = member(request, "article");
    let (id, translation_id) = (zendesk.new_id(), zendesk.new_id());
    let at = now();
    let mut article = Article {
        id,
        section_id,
        label_names: Vec::new(),
        user_segment_id: None,
        user_segment_ids: Vec::new(),
        created_at: at,
        updated_at: at,
        translations: vec![translation(translation_id, &wanted)],
    };
    set_metadata(&mut article, &wanted);
    article.updated_at = at;
    let shown = article.to_json(&request.origin());
    zendesk.articles.push(article);
    zendesk.version += 1;
    Reply::json(201, json!({"article": shown})).changed()
}

fn change(
    zendesk: &mut Zendesk,
    request: &Request,
    id: Option<u64>,
    change: impl FnOnce(&mut Article) -> bool,
) -> Reply {
    let found = zendesk.articles.iter_mut().find(|article| Some(article.id) == id);
    let Some(article) = found else { return not_found() };
    if !change(article) {
        return not_found();
    }
    article.touch();
    let shown = article.to_json(&request.origin());
    zendesk.version += 1;
    Reply::json(200, json!({"article": shown})).changed()
}

fn set_metadata(article: &mut Article, wanted: &Value) -> bool {
    let ids = |list: &Value| {
        list.as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_u64)
            .collect()
    };
    if let Some(segment) = wanted.get("user_segment_id") {
        article.user_segment_id = segment.as_u64();
    }
    if let Some(segments) = wanted.get("user_segment_ids") {
        article.user_segment_ids = ids(segments);
    }
    if let Some(labels) = wanted["label_names"].as_array() {
        article.label_names = labels
            .iter()
            .filter_map(|label| label.as_str().map(str::to_owned))
            .collect();
    }
    true
}

fn translation(id: u64, wanted: &Value) -> Translation {
    let mut translation = Translation {
        id,
        locale: wanted["locale"].as_str().unwrap_or(SOURCE_LOCALE).to_owned(),
        title: String::new(),
        body: Value::Null,
        draft: false,
        updated_at: now(),
    };
    set_translation(&mut translation, wanted);
    translation
}

fn set_translation(translation: &mut Translation, wanted: &Value) {
    if let Some(title) = wanted["title"].as_str() {
        title.clone_into(&mut translation.title);
    }
    if let Some(body) = wanted.get("body") {
        translation.body = body.clone();
    }
    if let Some(draft) = wanted["draft"].as_bool() {
        translation.draft = draft;
    }
    translation.updated_at = now();
}

fn member(request: &Request, name: &str) -> Value {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    body[name].clone()
}
