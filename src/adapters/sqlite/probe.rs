//! Whether ordinary writes are taken, tried.

use std::sync::Arc;

use copilotd_actors::ports::LogError;
use rusqlite::Connection;

use super::SqliteLog;
use super::failure::Failure;
use super::writer::MaxPages;

/// Pages that have to be free below the limit of a limited file.
const SPARE_PAGES: i64 = 16;

impl SqliteLog {
    /// Writes the one row of the probe; before it, the reserve is allocated again if there is room.
    pub(super) async fn probe_write(&self) -> Result<(), LogError> {
        let (reserve, slack) = (Arc::clone(&self.reserve), Arc::clone(&self.slack));
        let mend = move |connection: &Connection| {
            if !reserve.is_whole() {
                slack.note_log();
                reserve.mend(connection);
            }
            Ok(())
        };
        self.writer.between(mend).await?;
        // A row this small fits where nothing else does any more.
        let refused = self.reserve.take_refused() > 0;
        let max_pages = self.max_pages;
        let written = self.writer.write(move |connection| write(connection, max_pages)).await;
        if written.is_err() {
            // Its own failure says nothing about the next one.
            self.reserve.take_refused();
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
            // Begins again from 0: a number that cannot grow any more must not look like a store that cannot be written.
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
