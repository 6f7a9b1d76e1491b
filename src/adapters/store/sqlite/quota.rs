//! What tenants and users have stored. Triggers on `conversations` update the counters, so whatever writes or deletes a
//! header (an append, an erasure, a rebuild) counts in its own transaction.

use copilotd_actors::domain::conversation::quota::{StoredAmount, StoredTotals};
use copilotd_actors::domain::ids::{TenantId, UserId};
use rusqlite::{Connection, params};

use crate::adapters::sqlite::failure::Failure;

/// The counters and their triggers. The row with an empty user is the tenant's; no user has an empty name. Headers
/// written by an older version are measured by their appends.
pub(super) const SCHEMA: &str = "
ALTER TABLE conversations ADD COLUMN log_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE conversations SET log_bytes = (
    SELECT coalesce(sum(length(a.records)), 0) FROM appends a
    WHERE a.tenant = conversations.tenant AND a.conversation = conversations.conversation);
CREATE TABLE stored (
    tenant        TEXT    NOT NULL,
    user          TEXT    NOT NULL,
    conversations INTEGER NOT NULL,
    bytes         INTEGER NOT NULL,
    PRIMARY KEY (tenant, user)
) STRICT, WITHOUT ROWID;
INSERT INTO stored
    SELECT tenant, user, count(*), sum(log_bytes) FROM conversations WHERE erased = 0 GROUP BY tenant, user;
INSERT INTO stored
    SELECT tenant, '', count(*), sum(log_bytes) FROM conversations WHERE erased = 0 GROUP BY tenant;
CREATE TRIGGER stored_more AFTER INSERT ON conversations WHEN NEW.erased = 0 BEGIN
    INSERT INTO stored VALUES (NEW.tenant, NEW.user, 1, NEW.log_bytes), (NEW.tenant, '', 1, NEW.log_bytes)
    ON CONFLICT (tenant, user) DO UPDATE
    SET conversations = conversations + excluded.conversations, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER stored_otherwise AFTER UPDATE OF log_bytes ON conversations
WHEN OLD.erased = 0 AND NEW.erased = 0 AND OLD.log_bytes <> NEW.log_bytes BEGIN
    UPDATE stored SET bytes = bytes + NEW.log_bytes - OLD.log_bytes
    WHERE tenant = NEW.tenant AND user IN (NEW.user, '');
END;
CREATE TRIGGER stored_less AFTER DELETE ON conversations WHEN OLD.erased = 0 BEGIN
    UPDATE stored SET conversations = conversations - 1, bytes = bytes - OLD.log_bytes
    WHERE tenant = OLD.tenant AND user IN (OLD.user, '');
    DELETE FROM stored WHERE tenant = OLD.tenant AND user IN (OLD.user, '') AND conversations <= 0;
END;
";

/// Reads the counters of a tenant and one of its users.
pub(super) fn stored(connection: &Connection, tenant: &TenantId, user: &UserId) -> Result<StoredTotals, Failure> {
    let mut statement = connection
        .prepare_cached("SELECT user, conversations, bytes FROM stored WHERE tenant = ?1 AND user IN (?2, '')")?;
    let mut rows = statement.query(params![tenant.as_str(), user.as_str()])?;
    let mut totals = StoredTotals::default();
    while let Some(row) = rows.next()? {
        let stored = StoredAmount {
            conversations: row.get(1)?,
            bytes: row.get(2)?,
        };
        if row.get_ref(0)?.as_str().is_ok_and(str::is_empty) {
            totals.tenant = stored;
        } else {
            totals.user = stored;
        }
    }
    Ok(totals)
}
