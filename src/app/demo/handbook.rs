//! The help articles of the demo's tenants. Each tenant's copilot searches its own and cites them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::document::{AttributeChanges, DocumentKey, Format, Stage};
use copilotd_knowledge::index::Submitted;
use copilotd_knowledge::library::{Content, Library};
use tokio::time::Instant;

/// The collection that the copilots search.
pub(super) const COLLECTION: &str = "handbook";
/// Longest time to wait until all articles can be found. A first start needs a fraction of it.
const INGESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which the index is asked whether they can be found.
const LOOK: Duration = Duration::from_millis(20);

/// A help article.
struct Article {
    tenant: &'static str,
    /// Its id, also the end of its address.
    name: &'static str,
    /// Markdown; begins with the title.
    text: &'static str,
    /// The only user who may read it; none if everybody in the tenant may.
    reader: Option<&'static str>,
}

macro_rules! article {
    ($tenant:literal, $name:literal, $reader:expr) => {
        Article {
            tenant: $tenant,
            name: $name,
            text: include_str!(concat!($tenant, "/", $name, ".md")),
            reader: $reader,
        }
    };
}

const ARTICLES: [Article; 8] = [
    article!("acme", "refunds", None),
    article!("acme", "exports", None),
    article!("acme", "signing-in", None),
    article!("acme", "goodwill", Some("ada")),
    article!("globex", "deliveries", None),
    article!("globex", "returns", None),
    article!("globex", "warranty", None),
    article!("globex", "carriers", Some("bob")),
];

impl Article {
    fn title(&self) -> &'static str {
        let first = self.text.lines().next().unwrap_or_default();
        first.trim_start_matches(['#', ' '])
    }

    fn uri(&self) -> String {
        format!("https://help.{}.example/{}", self.tenant, self.name)
    }

    fn scope(&self) -> anyhow::Result<TenantScope> {
        #[expect(clippy::disallowed_methods, reason = "the tenant is one of the demo itself")]
        Ok(TenantScope::from_verified(self.tenant.parse()?))
    }

    fn key(&self) -> anyhow::Result<DocumentKey> {
        Ok(DocumentKey {
            collection: COLLECTION.parse()?,
            external_id: self.name.parse()?,
        })
    }

    /// Stores the article. One that is stored already is no work.
    async fn store(&self, library: &Library) -> anyhow::Result<()> {
        let users = match self.reader {
            Some(user) => Some(BTreeSet::from([user.parse()?])),
            None => None,
        };
        let changes = AttributeChanges {
            title: Some(Some(self.title().to_owned())),
            uri: Some(Some(self.uri())),
            metadata: None,
            users: Some(users),
            roles: None,
        };
        let content = Content {
            format: Format::Markdown,
            bytes: self.text.as_bytes().to_vec(),
        };
        let hash = content.hash();
        match library
            .store(&self.scope()?, self.key()?, content, hash, changes)
            .await?
        {
            Submitted::Accepted(_) | Submitted::Unchanged(_) => Ok(()),
            Submitted::QuotaExceeded(kind) => anyhow::bail!("the tenant's quota of documents is used up: {kind:?}"),
        }
    }

    /// Waits until searches find the article, but not beyond the deadline.
    async fn searchable(&self, library: &Library, deadline: Instant) -> anyhow::Result<()> {
        let (scope, key) = (self.scope()?, self.key()?);
        loop {
            let document = library.index.document(&scope, &key).await?;
            let document = document.context("it was deleted meanwhile")?;
            match document.stage {
                Stage::Searchable => return Ok(()),
                Stage::Failed => anyhow::bail!("it could not be ingested: {:?}", document.failure),
                Stage::Pending if Instant::now() >= deadline => anyhow::bail!("its ingestion has not ended yet"),
                Stage::Pending => tokio::time::sleep(LOOK).await,
            }
        }
    }
}

/// Stores the articles and waits until searches find them. The demo also runs without them.
pub(super) async fn store(library: &Library) {
    let stored = async {
        for article in &ARTICLES {
            article.store(library).await.with_context(|| article.uri())?;
        }
        let deadline = Instant::now() + INGESTION_TIMEOUT;
        for article in &ARTICLES {
            article
                .searchable(library, deadline)
                .await
                .with_context(|| article.uri())?;
        }
        anyhow::Ok(())
    };
    if let Err(error) = stored.await {
        tracing::warn!(
            error = format!("{error:#}"),
            "not all help articles of the demo can be found"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TENANTS, USERS};
    use super::*;

    #[test]
    fn every_tenant_has_articles_and_one_of_them_is_for_one_user() {
        for tenant in TENANTS {
            let articles: Vec<&Article> = ARTICLES.iter().filter(|article| article.tenant == tenant).collect();
            assert!(articles.len() >= 3, "{tenant}");
            let readers: Vec<&str> = articles.iter().filter_map(|article| article.reader).collect();
            assert!(
                matches!(readers.as_slice(), [reader] if USERS.contains(reader)),
                "{readers:?}"
            );
        }
        for article in &ARTICLES {
            assert!(
                article.text.starts_with("# ") && !article.title().is_empty(),
                "{}",
                article.name
            );
            article.key().unwrap();
            article.scope().unwrap();
        }
    }
}
