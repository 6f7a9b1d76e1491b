//! Tenants and API keys in MongoDB: a document for each, under its id or hash.

use async_trait::async_trait;
use copilotd_actors::ports::LogError;
use futures::TryStreamExt;
use jiff::Timestamp;
use mongodb::Collection;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, doc};

use super::MongoLog;
use super::failure::Failure;
use super::read::name_of;
use super::usage::{as_future, date};
use crate::adapters::store::unreadable::{
    KEY_MEANING, TENANT_MEANING, log_unreadable, refuse_unreadable, skip_unreadable,
};
use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::access::scopes::Scopes;
use copilotd_actors::domain::tenant::{KeyUse, StoredKey, StoredTenant, TenantStatus};
use copilotd_actors::ports::TenantStore;

#[async_trait]
impl TenantStore for MongoLog {
    async fn tenants(&self) -> Result<Vec<StoredTenant>, LogError> {
        let found = self.all(&self.collections.tenants, doc! { "_id": 1 }).await?;
        let read = |document: &Document| {
            let refused = |error| {
                let record = format!("collection tenants, _id {}", name_of(document));
                refuse_unreadable(record, TENANT_MEANING, error)
            };
            tenant(document).map_err(refused)
        };
        found.iter().map(read).collect()
    }

    async fn put_tenant(&self, tenant: &StoredTenant) -> Result<(), LogError> {
        let sealed = tenant.sealed.clone().map_or(Bson::Null, |bytes| {
            Bson::Binary(Binary {
                subtype: BinarySubtype::Generic,
                bytes,
            })
        });
        let document = doc! {
            "_id": tenant.id.as_str(),
            "suspended": tenant.status == TenantStatus::Suspended,
            "sealed": sealed,
            "created_at": date(tenant.created_at),
            "updated_at": date(tenant.updated_at),
            "deletion": tenant.deletion.map_or(Bson::Null, |job| Bson::String(job.to_string())),
        };
        Ok(self.put(&self.collections.tenants, document).await?)
    }

    async fn keys(&self) -> Result<Vec<StoredKey>, LogError> {
        let order = doc! { "created_at": -1, "_id": 1 };
        let found = self.all(&self.collections.api_keys, order).await?;
        let read = |document: &Document| {
            let read = key(document);
            if read.is_err() && document.get_str("created_by").is_err() {
                let record = format!("collection api_keys, _id {}", name_of(document));
                return read
                    .map(Some)
                    .map_err(|error| refuse_unreadable(record, KEY_MEANING, error));
            }
            skip_unreadable("api_key", name_of(document), read)
        };
        found.iter().filter_map(|document| read(document).transpose()).collect()
    }

    async fn put_key(&self, key: &StoredKey) -> Result<(), LogError> {
        let _pass = self.tenant_fence.enter(&key.tenant)?;
        let optional = |at: Option<Timestamp>| at.map_or(Bson::Null, |at| Bson::DateTime(date(at)));
        let document = doc! {
            "_id": id(&key.hash),
            "tenant": key.tenant.as_str(),
            "name": &key.name,
            "scopes": key.scopes.to_string(),
            "created_at": date(key.created_at),
            "created_by": key.created_by.clone().map_or(Bson::Null, Bson::String),
            "expires_at": optional(key.expires_at),
            "revoked_at": optional(key.revoked_at),
        };
        Ok(self.put(&self.collections.api_keys, document).await?)
    }

    async fn delete_keys(&self, hashes: &[KeyHash]) -> Result<(), LogError> {
        let ids: Vec<Bson> = hashes.iter().map(|hash| Bson::Binary(id(hash))).collect();
        let which = doc! { "_id": { "$in": ids } };
        let collections = &self.collections;
        collections
            .call(collections.api_keys.delete_many(which.clone()))
            .await?;
        collections.call(collections.key_uses.delete_many(which)).await?;
        Ok(())
    }

    async fn key_uses(&self) -> Result<Vec<KeyUse>, LogError> {
        let found = self.all(&self.collections.key_uses, doc! {}).await?;
        let read = |document: &Document| {
            Ok(KeyUse {
                hash: hash(document)?,
                at: time(document, "at")?,
            })
        };
        readable("key_use", &found, read)
    }

    async fn put_key_uses(&self, uses: &[KeyUse]) -> Result<(), LogError> {
        for used in uses {
            let document = doc! { "_id": id(&used.hash), "at": date(used.at) };
            self.put(&self.collections.key_uses, document).await?;
        }
        Ok(())
    }
}

impl MongoLog {
    pub(super) async fn all(
        &self,
        collection: &Collection<Document>,
        order: Document,
    ) -> Result<Vec<Document>, Failure> {
        let asked = async { collection.find(doc! {}).sort(order).await?.try_collect().await };
        self.collections.call(as_future(asked)).await
    }

    pub(super) async fn put(&self, collection: &Collection<Document>, document: Document) -> Result<(), Failure> {
        let which = doc! { "_id": document.get("_id").cloned().unwrap_or(Bson::Null) };
        let put = collection.replace_one(which, document).upsert(true);
        self.collections.call(put).await?;
        Ok(())
    }
}

/// Reads documents one by one, so that an unreadable one does not hide the others.
fn readable<T>(
    what: &'static str,
    found: &[Document],
    read: impl Fn(&Document) -> Result<T, LogError>,
) -> Result<Vec<T>, LogError> {
    let read = |document: &Document| skip_unreadable(what, name_of(document), read(document)).transpose();
    found.iter().filter_map(read).collect()
}

/// Reads a tenant. An unreadable suspension flag or deletion job is read as suspended.
fn tenant(document: &Document) -> Result<StoredTenant, LogError> {
    let deletion = match document.get("deletion") {
        None | Some(Bson::Null) => Ok(None),
        Some(_) => parsed(document, "deletion").map(Some),
    };
    if let Err(error) = &deletion {
        log_unreadable("tenant", name_of(document), &format!("{error}; it counts as suspended"));
    }
    let suspended = document.get_bool("suspended").unwrap_or(true) || deletion.is_err();
    Ok(StoredTenant {
        id: parsed(document, "_id")?,
        status: if suspended {
            TenantStatus::Suspended
        } else {
            TenantStatus::Active
        },
        sealed: match document.get("sealed") {
            None | Some(Bson::Null) => None,
            // Of the wrong type, the settings exist and cannot be decrypted: the tenant is left out instead of being
            // served with the file's settings.
            Some(_) => Some(document.get_binary_generic("sealed").cloned().unwrap_or_default()),
        },
        created_at: time_or_epoch(document, "created_at"),
        updated_at: time_or_epoch(document, "updated_at"),
        deletion: deletion.unwrap_or_default(),
    })
}

/// Reads a key. An unreadable expiry is read as expired. A key that was created at run time and cannot be read is
/// refused like any unknown one; any other record is of a key of the file, which it revokes.
fn key(document: &Document) -> Result<StoredKey, LogError> {
    let optional = |name: &str| match document.get(name) {
        None | Some(Bson::Null) => None,
        Some(_) => Some(time_or_epoch(document, name)),
    };
    Ok(StoredKey {
        hash: hash(document)?,
        tenant: parsed(document, "tenant")?,
        name: document.get_str("name").unwrap_or_default().to_owned(),
        scopes: Scopes::from_claim(document.get_str("scopes").unwrap_or_default()),
        created_at: time_or_epoch(document, "created_at"),
        created_by: document.get_str("created_by").ok().map(str::to_owned),
        expires_at: optional("expires_at"),
        revoked_at: optional("revoked_at"),
    })
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(document: &Document, name: &str) -> Result<T, LogError> {
    let text = document.get_str(name).map_err(|error| corrupt(name, &error))?;
    text.parse().map_err(|error| corrupt(name, &error))
}

fn id(hash: &KeyHash) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: hash.bytes().to_vec(),
    }
}

fn hash(document: &Document) -> Result<KeyHash, LogError> {
    let bytes = document
        .get_binary_generic("_id")
        .map_err(|error| corrupt("_id", &error))?;
    let bytes = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|error| corrupt("_id", &error))?;
    Ok(KeyHash::from_bytes(bytes))
}

fn time(document: &Document, name: &str) -> Result<Timestamp, LogError> {
    let date = document.get_datetime(name).map_err(|error| corrupt(name, &error))?;
    Timestamp::from_millisecond(date.timestamp_millis()).map_err(|error| corrupt(name, &error))
}

/// Reads a time that nothing depends on, or an expiry, where the earliest time is the safe one.
fn time_or_epoch(document: &Document, name: &str) -> Timestamp {
    time(document, name).unwrap_or_else(|error| {
        log_unreadable("time", name_of(document), &error.to_string());
        Timestamp::UNIX_EPOCH
    })
}

fn corrupt(what: &str, error: &dyn std::fmt::Display) -> LogError {
    LogError::Corrupt(format!("{what}: {error}"))
}
