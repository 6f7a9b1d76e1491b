//! `copilotd-eval`: prints the table of the evaluation sets.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use copilotd_actors::ports::{Embedder, Space};
use copilotd_eval::locomo::WordPieces;
use copilotd_eval::table::Table;
use copilotd_eval::vectors::Vectors;
use copilotd_eval::{banking, facts, locomo, memory_growth, scifact};

/// Measures retrieval and long memory on evaluation sets, and prints one table as Markdown.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// What to measure (default: everything)
    #[arg(value_enum)]
    sets: Vec<Set>,
    /// Directory of the evaluation sets
    #[arg(long, env = "COPILOTD_EVAL_DATA")]
    data: PathBuf,
    /// Directory of the cached vectors
    #[arg(long, env = "COPILOTD_EVAL_VECTORS", required_unless_present = "lexical")]
    vectors: Option<PathBuf>,
    /// Space of the cached vectors to use; with --model, that of the model
    #[arg(long, required_unless_present_any = ["lexical", "model"])]
    space: Option<String>,
    /// Components of a vector
    #[arg(long, default_value_t = 384)]
    dimensions: usize,
    /// Local model that embeds what the cache lacks (needs the feature `engine`)
    #[arg(long, requires = "models")]
    model: Option<String>,
    /// Directory of the embedding models
    #[arg(long, env = "COPILOTD_MODELS")]
    models: Option<PathBuf>,
    /// A BERT model's tokenizer.json, which counts the tokens of conversations
    #[arg(long)]
    tokenizer: PathBuf,
    /// Search by words alone
    #[arg(long, conflicts_with_all = ["space", "model"])]
    lexical: bool,
    /// Most questions of each set
    #[arg(long, default_value_t = usize::MAX)]
    sample: usize,
    /// Exit with 1 if an aim is missed
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Set {
    Scifact,
    Banking,
    Locomo,
    Growth,
    Facts,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let embedder = embedder(&arguments)?;
    let space = match (&embedder, &arguments.space) {
        (Some((space, _)), _) => Some(Space::clone(space)),
        (None, space) => space.as_deref().map(Space::from),
    };
    let embedder = embedder.as_ref().map(|(_, embedder)| &**embedder);
    let mut vectors = match (&arguments.vectors, &space) {
        (Some(cache), Some(space)) => Some(Vectors::open(cache, space, arguments.dimensions)?),
        _ => None,
    };
    let pieces = WordPieces::load(&arguments.tokenizer)?;
    let (data, sample) = (&arguments.data, arguments.sample);
    let wanted = |set| arguments.sets.is_empty() || arguments.sets.contains(&set);
    let mut table = Table::default();
    if wanted(Set::Scifact) {
        table
            .0
            .extend(scifact::measure(data, vectors.as_mut(), embedder, sample).await?);
    }
    if wanted(Set::Banking) {
        table
            .0
            .extend(banking::measure(data, vectors.as_mut(), embedder, sample).await?);
    }
    if wanted(Set::Locomo) {
        table
            .0
            .extend(locomo::measure(data, &pieces, vectors.as_mut(), embedder, sample).await?);
    }
    if wanted(Set::Growth) {
        table.0.extend(memory_growth::measure(data, &pieces, vectors.as_ref())?);
    }
    if wanted(Set::Facts) {
        table.0.extend(facts::measure().await.lines());
    }
    print!("{table}");
    let failed = arguments.check && !table.is_met();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

type NamedEmbedder = (Space, Box<dyn Embedder>);

#[cfg(feature = "engine")]
fn embedder(arguments: &Arguments) -> anyhow::Result<Option<NamedEmbedder>> {
    use anyhow::Context as _;
    use copilotd::adapters::embedding::{LocalEmbedder, ModelKind, Threads};

    let (Some(model), Some(models)) = (&arguments.model, &arguments.models) else {
        return Ok(None);
    };
    let kind = ModelKind::ALL.into_iter().find(|kind| kind.name() == model);
    let kind = kind.with_context(|| format!("there is no local model {model}"))?;
    let embedder = LocalEmbedder::load(kind, &models.join(kind.name()), Threads::default())?;
    let space = Space::clone(embedder.space());
    Ok(Some((space, Box::new(embedder))))
}

#[cfg(not(feature = "engine"))]
fn embedder(arguments: &Arguments) -> anyhow::Result<Option<NamedEmbedder>> {
    anyhow::ensure!(
        arguments.model.is_none(),
        "built without the embedding engine: build with --features engine, or name the --space of cached vectors"
    );
    Ok(None)
}
