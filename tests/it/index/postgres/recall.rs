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
/// Documents of the tenant, of [`CHUNKS`] chunks each; the reader may see one in a hundred.
const DOCUMENTS: usize = 200;
const CHUNKS: usize = 10;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noisy_neighbours_and_narrow_readers_cost_no_recall() {
    let Some((server, schema)) = shared().await else { return };
    let with = |exact| PostgresOptions {
        exact,
        ..options(server, &schema)
    };
    let by_graph = index_in(&with(0)).await;
    let exact = index_in(&with(u64::MAX)).await;
    // Of the three readers below only the last may see so few.
    let chosen = index_in(&with(1_000)).await;
    let mut random = StdRng::seed_from_u64(5);
    let acme = Library::new(&exact, "acme");
    for n in 0..DOCUMENTS {
        let user = if n % 100 == 0 { "ann" } else { "bob" };
        let attributes = readable_by(listed(&[user], &[]));
        put(&acme, &n.to_string(), CHUNKS, attributes, &mut random).await;
    }
    let names = neighbours(server, &schema).await;
    assert_eq!(names.len(), 99);
    for name in &names {
        put(
            &Library::new(&exact, name),
            "a",
            OF_NEIGHBOUR,
            Attributes::default(),
            &mut random,
        )
        .await;
    }
    for (reader, what) in [
        (Reader::Administrator, "all"),
        (caller(Some("bob"), &[]), "99 %"),
        (caller(Some("ann"), &[]), "1 %"),
    ] {
        let (mut found, mut as_chosen, mut wanted) = (0, 0, 0);
        for _ in 0..40 {
            let question = draw(&acme, &mut random);
            let expected: HashSet<ChunkId> = nearest(&acme, &exact, &reader, &question).await.into_iter().collect();
            assert_eq!(expected.len(), 10);
            let near = nearest(&acme, &by_graph, &reader, &question).await;
            found += near.iter().filter(|chunk| expected.contains(chunk)).count();
            let near = nearest(&acme, &chosen, &reader, &question).await;
            as_chosen += near.iter().filter(|chunk| expected.contains(chunk)).count();
            wanted += expected.len();
        }
        println!("recall of a reader of {what}: by graph {found}, as chosen by count {as_chosen}, of {wanted}");
        assert!(found * 100 >= wanted * 98, "{what}: {found} of {wanted}");
        assert!(as_chosen * 100 >= wanted * 98, "{what}: {as_chosen} of {wanted}");
    }
}
