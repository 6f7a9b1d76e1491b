//! The knowledge of this process: the index, what reads documents, and what ingests them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use copilotd_actors::ports::{Clock, EventLog, Ids};
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::Gateway;
use copilotd_gateway::dispatch::{DocumentModel, TextForm};
use copilotd_gateway::target::TargetName;
use copilotd_knowledge::chunk::{Estimate, TokenCount};
use copilotd_knowledge::extract::{self, ExtractError, Extractor, NoPdf, PdfText};
use copilotd_knowledge::index::{KnowledgeIndex, Quota};
use copilotd_knowledge::ingest::{Bounds, Engine, Ingestion, Parts};
use copilotd_knowledge::library::{Library, Models};
use copilotd_knowledge::recollect::{self, Recollector};
use copilotd_knowledge::retrieve::Retriever;
use copilotd_knowledge::turn_vectors::TurnVectors;
use ractor::Actor;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::adapters::child;
use crate::adapters::embedding::LocalEmbedder;
use crate::adapters::index::postgres::{self, PostgresIndex, PostgresOptions};
use crate::adapters::index::sqlite::SqliteIndex;
use crate::adapters::pdf::{self, PdfPool};
use crate::adapters::sqlite::OpenError;
use crate::config::{Config, DocumentEmbeddings, IndexStore, Knowledge, RouteEmbeddings, Store, TenantLimits};
use crate::tenants::TenantRegistry;

/// What the knowledge is made of.
pub struct KnowledgeParts {
    /// The index.
    pub index: Arc<dyn KnowledgeIndex>,
    /// Where vectors of conversations' messages are stored; none if they are made again when they are needed again.
    pub turn_vectors: Option<Arc<dyn TurnVectors>>,
    /// Whether the index is a server's, which may be away while this process serves.
    pub is_remote: bool,
    /// The embedding model of documents, if there is one.
    pub engine: Option<Engine>,
    /// The one that is being replaced.
    pub previous: Option<Engine>,
    /// The embedding model of conversations' messages, if there is one: always one of this process.
    pub recall: Option<Engine>,
    /// Whether an embedding model of documents is configured.
    pub is_configured: bool,
    /// Reads documents.
    pub extractor: Extractor,
    /// Whether the PDFium library works; none if the configuration names none.
    pub pdf: Option<bool>,
    /// What reads PDF documents; none in tests without a reader.
    pub pdf_reader: Option<PdfReader>,
    /// Counts the tokens of chunks.
    pub tokens: Arc<dyn TokenCount>,
}

/// How long a process that is just ending may keep the index.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time in which a process to read PDF documents has to read the first one.
const PDF_CHECK_TIMEOUT: Duration = Duration::from_secs(20);

/// Attempts at that, unless the library cannot be loaded: on a busy machine a process may be late, or not to be had.
const PDF_CHECKS: u32 = 3;
/// Pause between them.
const PDF_CHECK_PAUSE: Duration = Duration::from_secs(2);

/// What reads PDF documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PdfReader {
    /// The PDFium library.
    Pdfium,
    /// The reader that is part of the program, which finds less.
    BuiltIn,
    /// Nothing: PDF documents are refused.
    None,
}

impl PdfReader {
    /// Returns its name in `/readyz`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pdfium => "pdfium",
            Self::BuiltIn => "built_in",
            Self::None => "none",
        }
    }
}

/// Returns the reader of PDF documents: that of the library, or else the built-in one.
async fn open_pdf(library: Option<&Path>) -> (Arc<dyn PdfText>, PdfReader) {
    if let Some(library) = library
        && let Some(pool) = open_pdfium(library).await
    {
        tracing::info!(library = %library.display(), "PDF documents are read by PDFium");
        return (Arc::new(pool), PdfReader::Pdfium);
    }
    let pool = PdfPool::new(child::own_program(), pdf::Settings::built_in());
    match check_pdf(async || pool.probe().await).await {
        Ok(()) => {
            tracing::info!("PDF documents are read by the built-in reader, which finds less text than PDFium");
            (Arc::new(pool), PdfReader::BuiltIn)
        }
        Err(error) => {
            tracing::error!(
                cause = error.code(),
                "the built-in reader of PDF documents cannot be used; they are refused until the next start"
            );
            (Arc::new(NoPdf), PdfReader::None)
        }
    }
}

/// Returns the reader of the library; none if it cannot be used.
async fn open_pdfium(library: &Path) -> Option<PdfPool> {
    let pool = PdfPool::new(child::own_program(), pdf::Settings::of(library.to_owned()));
    let cause = match check_pdf(async || pool.probe().await).await {
        Ok(()) => return Some(pool),
        Err(error) => error.code(),
    };
    tracing::error!(
        library = %library.display(),
        cause,
        "PDFium library cannot be used; the built-in reader is used until the next start with one that can"
    );
    None
}

/// Checks that a reader reads, a few times if it has no time.
async fn check_pdf(probe: impl AsyncFn() -> Result<(), ExtractError>) -> Result<(), ExtractError> {
    let mut attempt = 1;
    loop {
        let checked = tokio::time::timeout(PDF_CHECK_TIMEOUT, probe()).await;
        let error = match checked.unwrap_or(Err(ExtractError::TimedOut)) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if error == ExtractError::PdfUnavailable || attempt == PDF_CHECKS {
            return Err(error);
        }
        tracing::warn!(
            cause = error.code(),
            attempt,
            "the reader of PDF documents did not read its test document; trying again"
        );
        attempt += 1;
        tokio::time::sleep(PDF_CHECK_PAUSE).await;
    }
}

/// Opens the index of a process that has the store.
async fn open_index(directory: PathBuf) -> anyhow::Result<SqliteIndex> {
    let deadline = Instant::now() + OPEN_TIMEOUT;
    loop {
        let at = directory.clone();
        let opened = tokio::task::spawn_blocking(move || SqliteIndex::open(&at)).await?;
        match opened {
            Err(OpenError::Locked { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            opened => return opened.context("cannot open the index of documents"),
        }
    }
}

/// Returns how to reach PostgreSQL; none if the index is elsewhere.
pub(super) fn postgres_options(settings: &Knowledge) -> Option<PostgresOptions> {
    let url = settings
        .url
        .clone()
        .filter(|_| settings.index == IndexStore::Postgres)?;
    Some(PostgresOptions {
        schema: settings.schema.clone(),
        connections: settings.connections,
        ..PostgresOptions::new(url)
    })
}

/// Opens the index on PostgreSQL; waits for a server that is just starting.
async fn open_postgres(options: PostgresOptions) -> anyhow::Result<PostgresIndex> {
    let deadline = Instant::now() + OPEN_TIMEOUT;
    loop {
        match PostgresIndex::open(&options).await {
            Err(postgres::OpenError::Server(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            opened => return opened.context("cannot open the index of documents in PostgreSQL (knowledge.url)"),
        }
    }
}

/// Opens the index that the configuration names, and where vectors of conversations' messages are stored.
async fn open_stores(config: &Config) -> anyhow::Result<(Arc<dyn KnowledgeIndex>, Option<Arc<dyn TurnVectors>>)> {
    let directory = config.server.data_dir.clone();
    if let Some(options) = postgres_options(&config.knowledge) {
        let index = Arc::new(open_postgres(options).await?);
        tracing::info!(
            schema = config.knowledge.schema,
            connections = config.knowledge.connections,
            "documents are stored in PostgreSQL: every machine with this configuration finds them"
        );
        if let Some(file) = SqliteIndex::file_in(&directory) {
            tracing::warn!(
                file = %file.display(),
                "the embedded index is still there but is no longer used: what is erased from now on stays in it; delete it"
            );
        }
        return Ok((Arc::clone(&index) as _, Some(index as _)));
    }
    // With a store that several machines use in turn, an erasure on one could not delete what another has stored.
    let is_alone = matches!(config.store, Store::Sqlite);
    if !is_alone {
        tracing::info!(
            directory = %directory.display(),
            "documents are stored in the data directory of this machine: a process on another machine does not find them; \
             knowledge.index = \"postgres\" shares them"
        );
    }
    let index = Arc::new(open_index(directory).await?);
    let turn_vectors = is_alone.then(|| Arc::clone(&index) as _);
    Ok((index, turn_vectors))
}

/// Returns what embeds documents, and what may have embedded them before.
fn engines(
    config: &Config,
    local: Option<&Engine>,
    gateway: &Gateway,
) -> anyhow::Result<(Option<Engine>, Option<Engine>)> {
    let of_route = |settings: &RouteEmbeddings| {
        let model = document_model(config, settings)?;
        anyhow::Ok(Engine {
            space: model.space(),
            embedder: gateway.document_embedder(model),
        })
    };
    let knowledge = &config.knowledge;
    let named = knowledge.previous_embeddings.as_ref().map(of_route).transpose()?;
    Ok(match &knowledge.embeddings {
        DocumentEmbeddings::Local(_) => (local.cloned(), named),
        DocumentEmbeddings::Route(settings) => (Some(of_route(settings)?), named.or_else(|| local.cloned())),
    })
}

/// Returns the model of a route.
fn document_model(config: &Config, settings: &RouteEmbeddings) -> anyhow::Result<DocumentModel> {
    let route = config
        .route(&settings.route)
        .context("an embedding route is not configured")?;
    let target = route.targets.first().context("an embedding route has no target")?;
    let form = |prefix: &str, input_type: &Option<String>| TextForm {
        prefix: prefix.to_owned(),
        input_type: input_type.clone(),
    };
    Ok(DocumentModel {
        route: settings.route.clone(),
        target: TargetName {
            provider: target.provider.clone(),
            model: target.model.clone(),
        },
        dimensions: settings.dimensions,
        is_shortened: settings.shorten,
        query: form(&settings.query_prefix, &settings.query_input_type),
        passage: form(&settings.passage_prefix, &settings.passage_input_type),
        batch: settings.batch,
    })
}

/// Returns the model that is being replaced: `previous`, if there are vectors of it. Logs what happens to those of other
/// models.
async fn replaced(index: &dyn KnowledgeIndex, current: Option<&Engine>, previous: Option<Engine>) -> Option<Engine> {
    let current = current?;
    let spaces = match index.spaces().await {
        Ok(spaces) => spaces,
        Err(error) => {
            tracing::warn!(%error, "could not read which embedding models the documents have vectors of");
            return previous;
        }
    };
    let previous = previous.filter(|previous| previous.space != current.space && spaces.contains(&previous.space));
    if let Some(previous) = &previous {
        tracing::info!(
            from = %previous.space, to = %current.space,
            "the embedding model of documents is being replaced; both are searched until all documents are embedded again"
        );
    }
    let models = Models {
        current: Some(current.clone()),
        previous: previous.clone(),
    };
    for space in models.without_model(&spaces) {
        tracing::warn!(
            %space, current = %current.space,
            "documents were embedded by a model that is not configured any more; until they are embedded again, they are found \
             by their words alone"
        );
    }
    previous
}

impl KnowledgeParts {
    /// Opens what the configuration names.
    pub(super) async fn open(
        config: &Config,
        local: Option<Arc<LocalEmbedder>>,
        gateway: &Gateway,
    ) -> anyhow::Result<Self> {
        let is_configured =
            config.embeddings.is_some() || matches!(config.knowledge.embeddings, DocumentEmbeddings::Route(_));
        // One that could not be loaded has been reported.
        if !is_configured {
            tracing::info!("no embedding model is configured: documents are searched by their words alone");
        }
        let recall = local.as_ref().map(|local| Engine {
            space: Arc::clone(local.space()),
            embedder: Arc::clone(local) as _,
        });
        let (engine, previous) = engines(config, recall.as_ref(), gateway)?;
        let library = config.knowledge.pdfium.as_deref();
        let (reader, pdf_reader) = open_pdf(library).await;
        let (index, turn_vectors) = open_stores(config).await?;
        let previous = replaced(&*index, engine.as_ref(), previous).await;
        Ok(Self {
            engine,
            previous,
            recall,
            is_configured,
            turn_vectors,
            index,
            is_remote: config.knowledge.index == IndexStore::Postgres,
            extractor: Extractor::new(reader, extract::Limits::default()),
            pdf: library.map(|_| pdf_reader == PdfReader::Pdfium),
            pdf_reader: Some(pdf_reader),
            tokens: match &local {
                Some(local) => Arc::clone(local) as _,
                None => Arc::new(Estimate),
            },
        })
    }

    /// Returns what searches compare, as `/readyz` names it.
    pub(super) fn compared(&self) -> &'static str {
        match self.engine {
            Some(_) => "words_and_meaning",
            None => "words",
        }
    }

    /// Creates the part that searches.
    pub fn retriever(&self) -> Arc<Retriever> {
        let retriever = Retriever::new(Arc::clone(&self.index), self.engine.clone());
        Arc::new(match self.previous.clone() {
            Some(previous) => retriever.replacing(previous),
            None => retriever,
        })
    }

    /// Starts the part that searches conversations' earlier messages.
    pub(super) fn recollector(&self, log: Arc<dyn EventLog>) -> Recollector {
        Recollector::start(recollect::Parts {
            log,
            engine: self.recall.clone(),
            vectors: self.turn_vectors.clone(),
            bounds: recollect::Bounds::default(),
        })
    }

    /// Starts the ingestion; also returns the task that ends with it.
    pub(super) async fn start(
        self,
        retriever: Arc<Retriever>,
        registry: &Arc<TenantRegistry>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> anyhow::Result<(Arc<Library>, JoinHandle<()>)> {
        let config = registry.config();
        let settings = config.knowledge.clone();
        let models = self.is_configured.then(|| Models {
            current: self.engine.clone(),
            previous: self.previous.clone(),
        });
        let tenants = Arc::clone(registry);
        let quota: Arc<dyn Fn(&TenantScope) -> Quota + Send + Sync> = Arc::new(move |scope: &TenantScope| {
            let config = tenants.config();
            let tenant = config.tenant(scope.tenant().as_str());
            // Left out after a reload: what it has submitted is still ingested, under the default limits.
            tenant.map_or_else(
                || TenantLimits::default().documents(),
                |tenant| tenant.limits.documents(),
            )
        });
        let ingestion = Ingestion(Arc::new(Parts {
            index: Arc::clone(&self.index),
            extractor: self.extractor,
            tokens: self.tokens,
            engine: self.engine,
            quota: Arc::clone(&quota),
            clock: Arc::clone(&clock),
            bounds: Bounds {
                workers: settings.workers,
                ..Bounds::default()
            },
        }));
        let (ingestion, end) = Actor::spawn(None, ingestion, ())
            .await
            .context("starting the ingestion")?;
        let library = Library {
            index: self.index,
            retriever,
            ingestion,
            quota,
            models,
            clock,
            ids,
            max_bytes: settings.max_document_bytes,
        };
        Ok((Arc::new(library), end))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_is_late_is_checked_again_and_one_without_library_is_not() {
        for (outcomes, checks, expected) in [
            (vec![Ok(())], 1, Ok(())),
            (
                vec![Err(ExtractError::Busy), Err(ExtractError::TimedOut), Ok(())],
                3,
                Ok(()),
            ),
            (vec![Err(ExtractError::Busy); 4], 3, Err(ExtractError::Busy)),
            (
                vec![Err(ExtractError::PdfUnavailable)],
                1,
                Err(ExtractError::PdfUnavailable),
            ),
        ] {
            let asked = Cell::new(0);
            let checked = check_pdf(async || {
                asked.set(asked.get() + 1);
                outcomes[asked.get() - 1]
            });
            assert_eq!((checked.await, asked.get()), (expected, checks));
        }
        let hanging = check_pdf(std::future::pending::<Result<(), ExtractError>>);
        assert_eq!(hanging.await, Err(ExtractError::TimedOut));
    }
}
