//! A read-only check of a database, for `copilotd check --online`: takes no lease and writes nothing.

use std::time::Duration;

use mongodb::Client;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::ClientOptions;

use super::MongoLog;

/// Longest time until a server is found.
const SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(3);

impl MongoLog {
    /// Checks that the server answers and lets us read, and returns which process uses the database.
    ///
    /// # Errors
    /// The reason, for the operator; without the address, which may contain a password.
    pub async fn look(url: &str, database: &str) -> Result<Option<String>, String> {
        let invalid = |_error| "the address is invalid, or its host name cannot be resolved".to_owned();
        let mut settings = ClientOptions::parse(url).await.map_err(invalid)?;
        settings.connect_timeout = Some(SERVER_SELECTION_TIMEOUT);
        settings.server_selection_timeout = Some(SERVER_SELECTION_TIMEOUT);
        let client = Client::with_options(settings).map_err(invalid)?;
        let failed = |error: mongodb::error::Error| match *error.kind {
            mongodb::error::ErrorKind::ServerSelection { .. } => {
                "no server answered, or none of them is the primary".to_owned()
            }
            mongodb::error::ErrorKind::Authentication { .. } => {
                "the server rejected the user name or password".to_owned()
            }
            kind => format!("the server rejected the connection: {kind}"),
        };
        let database = client.database(database);
        database.run_command(doc! { "ping": 1 }).await.map_err(failed)?;
        let meta = database.collection::<Document>("meta");
        let lease = meta.find_one(doc! { "_id": "lease" }).await.map_err(failed)?;
        let held = lease.filter(|lease| lease.get_datetime("expires_at").is_ok_and(|end| *end > DateTime::now()));
        Ok(held.and_then(|lease| lease.get_str("owner").map(str::to_owned).ok()))
    }
}
