//! Spaces of vectors: a table for each, since the numbers of dimensions differ, and since a model that is given up is
//! then deleted by dropping a table, which returns the disk space at once.

use std::collections::BTreeMap;
use std::time::Duration;

use copilotd_actors::ports::{LogError, Space, Vector};

use super::session::{Database, Mode, Tx, get};
use super::tables;

/// Longest wait for a table that is to be dropped.
const DROP_WAIT: Duration = Duration::from_secs(5);

/// A space with a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownSpace {
    /// Its number, part of the table's name.
    pub(super) n: i32,
    pub(super) dimensions: usize,
}

/// Finds a space by its name.
pub(super) async fn find(tx: &Tx<'_>, name: &str) -> Result<Option<KnownSpace>, LogError> {
    let rows = tx
        .query("SELECT n, dimensions FROM spaces WHERE name = $1", &[&name])
        .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(KnownSpace {
        n: get(row, 0)?,
        dimensions: usize::try_from(get::<i32>(row, 1)?).unwrap_or(0),
    }))
}

/// Returns the numbers of all spaces.
pub(super) async fn all(tx: &Tx<'_>) -> Result<Vec<i32>, LogError> {
    tx.column("SELECT n FROM spaces ORDER BY n", &[]).await
}

/// Returns the names of all spaces.
pub(super) async fn names(database: &Database) -> Result<Vec<Space>, LogError> {
    let mut client = database.client().await?;
    let tx = Tx::begin(&mut client, database, None, Mode::Read).await?;
    let names: Vec<String> = tx.column("SELECT name FROM spaces ORDER BY name", &[]).await?;
    tx.commit().await?;
    Ok(names.into_iter().map(Space::from).collect())
}

/// Finds the spaces of some vectors, which have tables already.
pub(super) async fn of(tx: &Tx<'_>, vectors: &[Vector]) -> Result<BTreeMap<Space, KnownSpace>, LogError> {
    let mut known = BTreeMap::new();
    for vector in vectors {
        if known.contains_key(vector.space()) {
            continue;
        }
        let Some(space) = find(tx, vector.space()).await? else {
            return Err(LogError::Unavailable(
                "the vectors of this model were just deleted".to_owned(),
            ));
        };
        known.insert(vector.space().clone(), space);
    }
    let fits = |vector: &Vector| {
        known
            .get(vector.space())
            .is_some_and(|space| space.dimensions == vector.values().len())
    };
    if vectors.iter().all(fits) {
        Ok(known)
    } else {
        Err(LogError::Refused(
            "a vector has another number of dimensions than others of its model".to_owned(),
        ))
    }
}

/// Creates the tables that are missing for some vectors, in a transaction of its own.
pub(super) async fn ensure(database: &Database, vectors: &[Vector]) -> Result<(), LogError> {
    let mut dimensions: BTreeMap<&Space, usize> = BTreeMap::new();
    for vector in vectors {
        dimensions.entry(vector.space()).or_insert(vector.values().len());
    }
    if dimensions.is_empty() {
        return Ok(());
    }
    let mut client = database.client().await?;
    let tx = Tx::begin(&mut client, database, None, Mode::Read).await?;
    let mut missing = Vec::new();
    for (space, dimensions) in dimensions {
        if find(&tx, space).await?.is_none() {
            missing.push((space, dimensions));
        }
    }
    tx.commit().await?;
    for (space, dimensions) in missing {
        let tx = Tx::begin(&mut client, database, None, Mode::Work).await?;
        lock(&tx, database).await?;
        // Another process may have been faster.
        if find(&tx, space).await?.is_none() {
            let n: i32 = tx.one("SELECT nextval('space_numbers')::integer", &[]).await?;
            let stored = i32::try_from(dimensions).unwrap_or(i32::MAX);
            tx.execute(
                "INSERT INTO spaces (n, name, dimensions) VALUES ($1, $2, $3)",
                &[&n, &space.as_ref(), &stored],
            )
            .await?;
            tx.batch(&tables::vectors_definition(n, dimensions)).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}

/// See `KnowledgeIndex::drop_spaces`. Drops one after the other, and gives up when one is in use for longer than
/// [`DROP_WAIT`], as by a backup: those who come later to delete chunks wait behind it.
pub(super) async fn drop_others(database: &Database, keep: &[Space]) -> Result<(), LogError> {
    let keep: Vec<&str> = keep.iter().map(AsRef::as_ref).collect();
    let mut client = database.client().await?;
    loop {
        let tx = Tx::begin(&mut client, database, None, Mode::Work).await?;
        lock(&tx, database).await?;
        let gone: Option<i32> = tx
            .optional(
                "DELETE FROM spaces WHERE n = (SELECT min(n) FROM spaces WHERE name <> ALL ($1)) RETURNING n",
                &[&keep],
            )
            .await?;
        let Some(gone) = gone else { return tx.commit().await };
        tx.execute("DELETE FROM work_embedded WHERE space = $1", &[&gone])
            .await?;
        let (wait, table) = (DROP_WAIT.as_millis(), tables::vectors(gone));
        tx.batch(&format!("SET LOCAL lock_timeout = {wait}; DROP TABLE {table}"))
            .await?;
        tx.commit().await?;
    }
}

/// Waits until no other process changes tables.
pub(super) async fn lock(tx: &Tx<'_>, database: &Database) -> Result<(), LogError> {
    // No tenant's lock: the names of tenants are not empty.
    let lock = format!("{}/", database.schema);
    tx.query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", &[&lock])
        .await?;
    Ok(())
}
