//! The trial write: shows whether the store takes ordinary writes.

use copilotd_actors::ports::LogError;
use rusqlite::Connection;

use super::SqliteLog;
use crate::adapters::sqlite::failure::Failure;
use crate::adapters::sqlite::writer::MaxPages;

/// Pages that have to be free below the size limit of the file.
const SPARE_PAGES: i64 = 16;

impl SqliteLog {
    /// Writes the probe's one row; before that, restores the reserve if there is space.
    pub(super) async fn probe_write(&self) -> Result<(), LogError> {
        self.database.restore_reserve().await?;
        // A row this small fits where nothing else fits any more.
        let refused = self.database.reserve.take_refused() > 0;
        let max_pages = self.database.max_pages;
        let written = self
            .database
            .writer
            .write(move |connection| write(connection, max_pages))
            .await;
        if written.is_err() {
            // The probe's own failure says nothing about the next probe.
            self.database.reserve.take_refused();
        }
        written?;
        if refused {
            return Err(Failure::Full.into());
        }
        Ok(())
    }
}

fn write(connection: &Connection, max_pages: Option<MaxPages>) -> Result<(), Failure> {
    connection
        .prepare_cached(
            // Restarts from 0: a number that cannot grow any more must not look like a store that takes no writes.
            "INSERT INTO meta (name, value) VALUES ('probe', 1) ON CONFLICT (name) DO UPDATE
             SET value = CASE WHEN value BETWEEN 0 AND 999999 THEN value + 1 ELSE 0 END",
        )?
        .execute([])?;
    if let Some(max) = max_pages {
        let count = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
        let used = count("PRAGMA page_count")? - count("PRAGMA freelist_count")?;
        if used + SPARE_PAGES > max.ordinary {
            return Err(Failure::Full);
        }
    }
    Ok(())
}
