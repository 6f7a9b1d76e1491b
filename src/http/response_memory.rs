//! Memory for responses, reserved before a handler runs. Reading a whole turn requires a [`PageMemory`].

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::account::Account;
use super::page;
use super::problems::Problem;

/// Memory needed to build a page: the records read for it, their client representation, and the JSON text.
const PAGE_BYTES: usize = 4 * page::MAX_BYTES;
/// Proof that the request's account holds memory for a page.
#[derive(Debug, Clone)]
pub struct PageMemory(());

impl PageMemory {
    pub(crate) async fn reserve(account: &Account) -> Result<Self, Problem> {
        account.reserve_answer(PAGE_BYTES).await?;
        Ok(Self(()))
    }
}

/// Must come after the caller in a handler's arguments. Returns the route's reservation or makes one.
impl<S: Send + Sync> FromRequestParts<S> for PageMemory {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        if let Some(room) = parts.extensions.get::<Self>() {
            return Ok(room.clone());
        }
        let later = LazyPageMemory::from_request_parts(parts, state).await?;
        later.page().await
    }
}

/// Lets a handler reserve memory for a page later, once it knows that it needs it.
#[derive(Debug)]
pub struct LazyPageMemory(Option<Account>);

impl LazyPageMemory {
    /// Reserves memory for a page.
    pub async fn page(&self) -> Result<PageMemory, Problem> {
        match &self.0 {
            Some(account) => PageMemory::reserve(account).await,
            // The request did not come through the router.
            None => Ok(PageMemory(())),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for LazyPageMemory {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Ok(Self(parts.extensions.get::<Account>().cloned()))
    }
}
