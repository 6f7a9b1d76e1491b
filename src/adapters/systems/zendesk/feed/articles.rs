//! Articles of the help centre.

use std::collections::{BTreeMap, BTreeSet};

use copilotd_actors::domain::ids::TenantId;
use copilotd_knowledge::document::Format;
use copilotd_knowledge::library::Content;
use copilotd_knowledge::sync::{Documents, FeedError, Item, Page, SourceDocument};
use serde_json::Value;

use super::{ArticleSettings, ZendeskFeed, number};
use crate::adapters::systems::tools::member::{as_flag, as_number, as_text, at, take_member};

/// Articles, and translations, on other pages: Zendesk's largest.
const PAGE: &str = "100";
/// Most labels in the metadata, which is bounded.
const MAX_LABELS: usize = 32;
/// Longest label in the metadata, in bytes.
const LABEL_BYTES: usize = 50;
const PREFIX: &str = "article-";

impl ZendeskFeed {
    /// The position is the time of the last change that was seen, in seconds since 1970.
    pub(super) async fn changed_articles(&self, tenant: &TenantId, after: Option<&str>) -> Result<Page, FeedError> {
        let start: u64 = after.and_then(|text| text.parse().ok()).unwrap_or(0);
        let query = [("start_time", start.to_string())];
        let mut answer = self.export(tenant, "help_center/incremental/articles", &query).await?;
        let (items, unreadable) = items(&mut answer)?;
        let listed = items.len() + unreadable.len();
        let end = as_number(at(&answer, &["end_time"])).filter(|end| *end > start);
        let has_more = at(&answer, &["next_page"]).is_string();
        let next = match end {
            Some(end) => Some(end),
            // More changes within one second than a page has: the same page again would repeat for ever, and the
            // comparison with all articles finds what is skipped here.
            None if has_more && listed > 0 => Some(start + 1),
            None => None,
        };
        Ok(Page {
            items,
            unreadable,
            is_last: !has_more || next.is_none(),
            next: next.map(|next| next.to_string()),
        })
    }

    pub(super) async fn all_articles(&self, tenant: &TenantId, after: Option<&str>) -> Result<Page, FeedError> {
        let mut query = vec![("page[size]", PAGE.to_owned())];
        query.extend(after.map(|cursor| ("page[after]", cursor.to_owned())));
        let answer = self.get(tenant, "help_center/articles", &query).await?;
        let mut answer =
            answer.ok_or_else(|| FeedError::Refused("zendesk has no help centre for this account".to_owned()))?;
        let (items, unreadable) = items(&mut answer)?;
        let next = as_text(at(&answer, &["meta", "after_cursor"])).filter(|cursor| !cursor.is_empty());
        let has_more = as_flag(at(&answer, &["meta", "has_more"])) == Some(true);
        if !has_more && at(&answer, &["next_page"]).is_string() {
            // Otherwise articles on later pages would be taken for deleted ones.
            return Err(FeedError::Refused("zendesk answered a list without cursors".to_owned()));
        }
        Ok(Page {
            items,
            unreadable,
            is_last: !has_more,
            next,
        })
    }

    pub(super) async fn article(&self, tenant: &TenantId, id: &str) -> Result<Option<Item>, FeedError> {
        let Some(number) = id.strip_prefix(PREFIX).and_then(|text| text.parse::<u64>().ok()) else {
            return Ok(None);
        };
        let answer = self.get(tenant, &format!("help_center/articles/{number}"), &[]).await?;
        let item = answer.map(|mut answer| item(take_member(&mut answer, "article")));
        let unreadable = |_| FeedError::Failed("zendesk sent an article without an id".to_owned());
        item.transpose().map_err(unreadable)
    }

    pub(super) async fn documents_of_article(&self, tenant: &TenantId, item: &Item) -> Result<Documents, FeedError> {
        let settings = self.of_articles()?;
        let roles = match roles(settings, &item.data) {
            Ok(roles) => roles,
            Err(reason) => return Ok(left_out(reason)),
        };
        let Some(locales) = &settings.locales else {
            return Ok(match as_flag(at(&item.data, &["draft"])) {
                Some(false) => one(item.id.clone(), item, &item.data, roles),
                Some(true) => Documents::default(),
                None => left_out("it does not say whether it is a draft".to_owned()),
            });
        };
        let path = format!("help_center/articles/{}/translations", number(item, PREFIX));
        let query = [("page[size]", PAGE.to_owned())];
        let Some(mut answer) = self.get(tenant, &path, &query).await? else {
            return Ok(Documents::default());
        };
        let Value::Array(translations) = take_member(&mut answer, "translations") else {
            return Err(FeedError::Failed("zendesk sent no list of translations".to_owned()));
        };
        let mut all = Documents::default();
        for translation in translations {
            let locale = as_text(at(&translation, &["locale"]))
                .unwrap_or_default()
                .to_lowercase();
            let is_published = as_flag(at(&translation, &["draft"])) == Some(false);
            if is_published && locales.iter().any(|wanted| wanted.to_lowercase() == locale) {
                let translated = one(format!("{}-{locale}", item.id), item, &translation, roles.clone());
                all.documents.extend(translated.documents);
                all.left_out = all.left_out.or(translated.left_out);
            }
        }
        Ok(all)
    }
}

fn left_out(reason: String) -> Documents {
    Documents {
        documents: Vec::new(),
        left_out: Some(reason),
    }
}

/// Reads the articles of a page; returns those that have an id, and what is known of the others.
fn items(answer: &mut Value) -> Result<(Vec<Item>, Vec<String>), FeedError> {
    let Value::Array(articles) = take_member(answer, "articles") else {
        return Err(FeedError::Failed("zendesk sent no list of articles".to_owned()));
    };
    let (mut items, mut unreadable) = (Vec::new(), Vec::new());
    for article in articles {
        match item(article) {
            Ok(item) => items.push(item),
            Err(article) => {
                let title = as_text(at(&article, &["title"])).unwrap_or_default();
                unreadable.push(format!("an article without an id, titled {title:?}"));
            }
        }
    }
    Ok((items, unreadable))
}

fn item(article: Value) -> Result<Item, Value> {
    match as_number(at(&article, &["id"])).filter(|id| *id > 0) {
        Some(id) => Ok(Item {
            id: format!("{PREFIX}{id}"),
            data: article,
        }),
        None => Err(article),
    }
}

/// Returns who may read an article: none for everybody, or an explanation why that is not known.
fn roles(settings: &ArticleSettings, article: &Value) -> Result<Option<BTreeSet<String>>, String> {
    let Some(segment) = article.get("user_segment_id") else {
        return Err("it does not say which user segment may read it".to_owned());
    };
    let several = match at(article, &["user_segment_ids"]) {
        Value::Null => &[][..],
        Value::Array(segments) => segments,
        _ => return Err("its user segments cannot be read".to_owned()),
    };
    let ids = several.iter().chain(Some(segment).filter(|segment| !segment.is_null()));
    let ids: Option<BTreeSet<String>> = ids.map(|id| Some(as_number(id)?.to_string())).collect();
    let ids = ids.ok_or("its user segments cannot be read")?;
    if ids.is_empty() {
        return Ok(None);
    }
    // Whoever is in one of the segments may read it.
    let roles: BTreeSet<String> = ids
        .iter()
        .filter_map(|id| settings.segments.get(id))
        .flatten()
        .cloned()
        .collect();
    if roles.is_empty() {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let ids = ids.join(", ");
        return Err(format!(
            "only the user segment {ids} may read it, and the configuration names no role for it"
        ));
    }
    Ok(Some(roles))
}

/// Returns the document of an article in one language.
fn one(external_id: String, item: &Item, text: &Value, roles: Option<BTreeSet<String>>) -> Documents {
    let body = at(text, &["body"]).as_str().unwrap_or_default();
    if body.trim().is_empty() {
        return left_out("it has no text".to_owned());
    }
    let Ok(external_id) = external_id.parse() else {
        return left_out("its id or language cannot be part of an id".to_owned());
    };
    let mut metadata = BTreeMap::new();
    if let Some(locale) = as_text(at(text, &["locale"])) {
        metadata.insert("locale".to_owned(), locale.into());
    }
    if let Some(section) = as_number(at(&item.data, &["section_id"])) {
        metadata.insert("section".to_owned(), section.to_string().into());
    }
    metadata.extend(labels("label", at(&item.data, &["label_names"])));
    Documents {
        documents: vec![SourceDocument {
            external_id,
            content: Content {
                format: Format::Html,
                bytes: body.as_bytes().to_vec(),
            },
            title: as_text(at(text, &["title"])),
            uri: as_text(at(text, &["html_url"])),
            metadata,
            roles,
        }],
        left_out: None,
    }
}

/// Returns labels as metadata, each by itself, so that searches can be filtered by one of several.
pub(super) fn labels(kind: &str, labels: &Value) -> impl Iterator<Item = (String, Value)> {
    let names = labels.as_array().into_iter().flatten().filter_map(Value::as_str);
    let names = names
        .filter(|name| !name.is_empty() && name.len() <= LABEL_BYTES)
        .take(MAX_LABELS);
    names.map(move |name| (format!("{kind}.{name}"), Value::Bool(true)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_article_is_open_only_if_it_says_so() {
        let settings: ArticleSettings = serde_json::from_value(json!({
            "collection": "help",
            "segments": { "1": ["agents"], "2": ["partners", "agents"] }
        }))
        .unwrap();
        let set = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>());
        for (article, expected) in [
            (json!({ "user_segment_id": null }), Some(None)),
            (json!({ "user_segment_id": null, "user_segment_ids": [] }), Some(None)),
            (json!({ "user_segment_id": 1 }), Some(set(&["agents"]))),
            (json!({ "user_segment_id": "1" }), Some(set(&["agents"]))),
            (
                json!({ "user_segment_id": null, "user_segment_ids": [2, 9] }),
                Some(set(&["agents", "partners"])),
            ),
            (json!({ "user_segment_id": 9 }), None),
            (json!({ "user_segment_id": 0 }), None),
            (json!({ "user_segment_id": { "id": 1 } }), None),
            (json!({ "user_segment_id": null, "user_segment_ids": [9] }), None),
            (json!({ "user_segment_id": null, "user_segment_ids": [null] }), None),
            (json!({ "user_segment_id": null, "user_segment_ids": "all" }), None),
            (json!({}), None),
        ] {
            assert_eq!(roles(&settings, &article).ok(), expected, "{article}");
        }
    }
}
