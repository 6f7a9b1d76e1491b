//! Several customers' accounts at one simulated vendor, told apart by the request's token.
//!
//! Invariant: a request sees and changes only the account of its own token; an unknown token gets the vendor's own
//! error. Only the control plane, which is the tester's, sees all accounts.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::http::{Reply, Request};
use crate::knobs::Knobs;
use crate::service::{self, NotWritten, Vendor};
use crate::{Running, kept};

/// One customer of a vendor.
#[derive(Debug, Clone)]
pub struct Account {
    /// Name of the account in the control plane.
    pub name: String,
    /// The only token that grants access.
    pub token: String,
}

/// A vendor that can have several accounts.
pub(crate) trait MultiAccount: Vendor + Serialize + DeserializeOwned {
    /// Returns an account with some people and things to try out.
    fn filled() -> Self;
    /// Returns the token of a request.
    fn token(request: &Request) -> Option<String>;
    /// Returns the vendor's error for an unknown token.
    fn unknown_token() -> Reply;
}

struct Accounts<V> {
    accounts: Vec<Account>,
    vendors: BTreeMap<String, V>,
}

/// Stored state. A file of an earlier format held one state for everybody, which belongs to no account and is ignored.
#[derive(Default, Deserialize)]
struct StoredAccounts<V> {
    #[serde(default = "BTreeMap::new")]
    accounts: BTreeMap<String, V>,
}

/// Starts a vendor with the accounts stored in `file`, or with fixtures; from then on the file is kept up to date.
pub(crate) async fn start<V: MultiAccount>(
    listen: SocketAddr,
    file: PathBuf,
    accounts: Vec<Account>,
) -> io::Result<Running> {
    let mut known = match kept::read::<StoredAccounts<V>>(&file)? {
        Some(kept) => kept.accounts,
        None => BTreeMap::new(),
    };
    let vendors = accounts.iter().map(|account| {
        let vendor = known.remove(&account.name).unwrap_or_else(V::filled);
        (account.name.clone(), vendor)
    });
    let vendors = vendors.collect();
    service::start(listen, Accounts { accounts, vendors }, Some(file)).await
}

impl<V: MultiAccount> Vendor for Accounts<V> {
    const NAME: &'static str = V::NAME;

    fn handle(&mut self, request: &Request, knobs: &Knobs) -> Reply {
        let name = match V::token(request) {
            Some(token) => self.accounts.iter().find(|account| account.token == token),
            // Without a token every account refuses in the same way.
            None => self.accounts.first(),
        };
        let vendor = name.and_then(|account| self.vendors.get_mut(&account.name));
        vendor.map_or_else(V::unknown_token, |vendor| vendor.handle(request, knobs))
    }

    fn failure(status: u16, retry_after: Option<u64>) -> Reply {
        V::failure(status, retry_after)
    }

    fn rate_headers(reply: Reply, path: &str, limit: u64, remaining: u64, reset: u64) -> Reply {
        V::rate_headers(reply, path, limit, remaining, reset)
    }

    fn state(&self) -> Value {
        merged(self.vendors.iter().map(|(name, vendor)| (name, Vendor::state(vendor))))
    }

    fn version(&self) -> u64 {
        self.vendors.values().map(Vendor::version).sum()
    }

    fn changes(&self) -> Value {
        merged(
            self.vendors
                .iter()
                .map(|(name, vendor)| (name, Vendor::changes(vendor))),
        )
    }

    fn account(&self, name: &str) -> Option<&dyn AccountView> {
        self.vendors.get(name).map(|vendor| vendor as &dyn AccountView)
    }

    fn write(&mut self, account: Option<&str>, message: &Value) -> Result<Value, NotWritten> {
        let name = account.unwrap_or_default();
        let Some(vendor) = self.vendors.get_mut(name) else {
            let error = format!("no account {name:?} at the simulated {}", Self::NAME);
            return Err(NotWritten::NotFound(error));
        };
        vendor.write(None, message)
    }

    fn reset(&mut self) {
        self.vendors.values_mut().for_each(Vendor::reset);
    }

    fn kept(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&json!({ "accounts": self.vendors }))
    }
}

/// The control plane's view of one account.
pub(crate) trait AccountView {
    fn state(&self) -> Value;
    fn version(&self) -> u64;
    fn changes(&self) -> Value;
}

impl<V: Vendor> AccountView for V {
    fn state(&self) -> Value {
        Vendor::state(self)
    }

    fn version(&self) -> u64 {
        Vendor::version(self)
    }

    fn changes(&self) -> Value {
        Vendor::changes(self)
    }
}

/// Merges the lists of all accounts; each entry names its account.
fn merged<'a>(views: impl Iterator<Item = (&'a String, Value)>) -> Value {
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (name, view) in views {
        let Value::Object(lists) = view else { continue };
        for (list, items) in lists {
            let Value::Array(items) = items else { continue };
            let items = items.into_iter().map(|mut item| {
                if item.is_object() {
                    item["account"] = json!(name);
                }
                item
            });
            all.entry(list).or_default().extend(items);
        }
    }
    json!(all)
}
