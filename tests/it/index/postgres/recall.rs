//! Near vectors found by graph, compared with an exact search: a tenant among 99 noisy neighbours in its partition, and
//! a reader of one percent.

use std::collections::HashSet;
use std::sync::Arc;

use copilotd_actors::domain::ids::ChunkId;
use copilotd_actors::ports::Vector;
use copilotd_knowledge::document::{Attributes, Reader};
use copilotd_knowledge::index::{KnowledgeIndex, Search};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{PostgresOptions, index_in, options};
use crate::index::library::{AMPLE, Library, at, caller, chunks, collection, key, listed, readable_by};
use crate::support::postgres::{Server, shared};

const DIMENSIONS: usize = 32;
/// Chunks of each neighbour.
const OF_NEIGHBOUR: usize = 30;

/// Draws from a few clusters, so that neighbours are as near to questions as the tenant's own chunks.
fn draw(library: &Library, random: &mut StdRng) -> Vector {
    let mut cluster = StdRng::seed_from_u64(random.random_range(0..20));
    let numbers = (0..DIMENSIONS).map(|_| {
        let centre: f32 = cluster.random_range(-1.0..1.0);
        centre + random.random_range(-0.6..0.6_f32)
    });
    Vector::unit(&library.space, numbers.collect()).unwrap()
}

async fn put(library: &Library, name: &str, count: usize, attributes: Attributes, random: &mut StdRng) {
    let passages: Vec<String> = (0..count).map(|n| format!("p{n}")).collect();
    let (key, text) = (key(name), passages.join("\n\n"));
    library.submit(&key, &text, attributes, 1).await;
    let document = library.document(&key).await.unwrap();
    let cut = chunks(document.id, &text);
    let places: Vec<_> = cut.iter().map(|(chunk, place)| (chunk.id, *place)).collect();
    let new = cut.into_iter().map(|(chunk, _)| chunk).collect();
    let vectors = (0..count).map(|_| draw(library, random)).collect();
    let (index, scope, version) = (&library.index, &library.scope, document.version);
    assert!(index.stage(scope, document.id, version, new, vectors).await.unwrap());
    index
        .publish(scope, document.id, version, places.into(), &AMPLE, at(1))
        .await
        .unwrap();
}

/// Names of tenants in the same partition as acme.
async fn neighbours(server: &Server, schema: &str) -> Vec<String> {
    let sql = "WITH own AS (SELECT r FROM generate_series(0, 15) r
                            WHERE satisfies_hash_partition($1::text::regclass, 16, r, 'acme'::text))
               SELECT name FROM own, (SELECT 'noisy-' || n AS name FROM generate_series(1, 5000) n) AS names
               WHERE satisfies_hash_partition($1::text::regclass, 16, own.r, names.name) LIMIT 99";
    let client = server.connect("knowledge").await;
    let rows = client.query(sql, &[&format!("{schema}.chunks")]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn nearest(
    library: &Library,
    index: &Arc<dyn KnowledgeIndex>,
    reader: &Reader,
    question: &Vector,
) -> Vec<ChunkId> {
    let search = Search {
        collections: vec![collection("handbook")],
        reader: reader.clone(),
        filter: Vec::new(),
        terms: Vec::new(),
        vector: Some(question.clone()),
        limit: 10,
    };
    let found = index.search(&library.scope, &search).await.unwrap();
    found.semantic.iter().map(|hit| hit.chunk).collect()
}

/// A tenant to be searched, and who may read what.
struct Size {
    seed: u64,
    documents: usize,
    chunks: usize,
    /// A reader of at most so many chunks gets every vector compared.
    exact: u64,
    questions: usize,
}

/// Compares what each reader finds with an exact search. Returns how often graphs were searched.
async fn measure(size: &Size) -> Option<i64> {
    let (server, schema) = shared().await?;
    let with = |exact| PostgresOptions {
        exact,
        ..options(server, &schema)
    };
    let by_graph = index_in(&with(0)).await;
    let exact = index_in(&with(u64::MAX)).await;
    let chosen = index_in(&with(size.exact)).await;
    let mut random = StdRng::seed_from_u64(size.seed);
    let acme = Library::new(&exact, "acme");
    for n in 0..size.documents {
        let user = if n % 100 == 0 { "ann" } else { "bob" };
        let attributes = readable_by(listed(&[user], &[]));
        put(&acme, &n.to_string(), size.chunks, attributes, &mut random).await;
    }
    let names = neighbours(server, &schema).await;
    assert_eq!(names.len(), 99);
    for name in &names {
        let neighbour = Library::new(&exact, name);
        put(&neighbour, "a", OF_NEIGHBOUR, Attributes::default(), &mut random).await;
    }
    let mut asked = 0;
    for (reader, what) in [
        (Reader::Administrator, "all"),
        (caller(Some("bob"), &[]), "99 %"),
        (caller(Some("ann"), &[]), "1 %"),
    ] {
        let (mut found, mut as_chosen, mut wanted) = (0, 0, 0);
        for _ in 0..size.questions {
            let question = draw(&acme, &mut random);
            let expected: HashSet<ChunkId> = nearest(&acme, &exact, &reader, &question).await.into_iter().collect();
            assert_eq!(expected.len(), 10);
            let near = nearest(&acme, &by_graph, &reader, &question).await;
            found += near.iter().filter(|chunk| expected.contains(chunk)).count();
            let near = nearest(&acme, &chosen, &reader, &question).await;
            as_chosen += near.iter().filter(|chunk| expected.contains(chunk)).count();
            wanted += expected.len();
            asked += 1;
        }
        let (seed, chunks) = (size.seed, size.documents * size.chunks);
        println!(
            "seed {seed}, {chunks} chunks: recall of a reader of {what}: by graph {found}, as chosen by count {as_chosen}, \
             of {wanted}"
        );
        assert!(found * 100 >= wanted * 98, "{what}: {found} of {wanted}");
        assert!(as_chosen * 100 >= wanted * 98, "{what}: {as_chosen} of {wanted}");
    }
    // Sessions that end say what they used, each at its own time. As chosen by count, two readers of three are searched
    // for by graph.
    drop((by_graph, exact, chosen, acme));
    let expected = asked + 2 * size.questions as i64;
    let sql = "SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_all_indexes
               WHERE schemaname = $1 AND indexrelname LIKE 'vectors\\_%embedding\\_idx'";
    let client = server.admin("knowledge").await;
    let scans = async || client.query_one(sql, &[&schema]).await.unwrap().get::<_, i64>(0);
    while scans().await < expected {
        tokio::task::yield_now().await;
    }
    Some(scans().await - asked)
}

/// Every search by graph, of a small tenant. As chosen by count only the last of the three readers gets every vector
/// compared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noisy_neighbours_and_narrow_readers_cost_no_recall() {
    for seed in [5, 6, 7] {
        let size = Size {
            seed,
            documents: 200,
            chunks: 10,
            exact: 1_000,
            questions: 40,
        };
        measure(&size).await;
    }
}

/// As it is configured: a tenant that has more chunks than are compared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_tenant_is_searched_by_graph() {
    let size = Size {
        seed: 8,
        documents: 200,
        chunks: 53,
        exact: PostgresOptions::new(String::new().into()).exact,
        questions: 40,
    };
    assert!(size.exact * 100 < (size.documents * size.chunks * 99) as u64);
    let Some(scans) = measure(&size).await else { return };
    // Two readers of three: each of their questions, and none of the third's.
    assert_eq!(scans, 2 * size.questions as i64);
}
