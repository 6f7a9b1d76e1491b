//! The scopes of a credential.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set of scopes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

/// The text is not a scope name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one of chat, gateway, knowledge, admin, operator")]
pub struct UnknownScope;

impl Scopes {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// Conversations and turns.
    pub const CHAT: Self = Self(1);
    /// The OpenAI-compatible gateway.
    pub const GATEWAY: Self = Self(1 << 1);
    /// Documents and their search.
    pub const KNOWLEDGE: Self = Self(1 << 2);
    /// All conversations and the audit log of the tenant.
    pub const ADMIN: Self = Self(1 << 3);
    /// Managing tenants, without access to content.
    pub const OPERATOR: Self = Self(1 << 4);

    /// Every scope.
    pub const ALL: Self = Self(0b1_1111);

    const NAMES: [(Self, &'static str); 5] = [
        (Self::CHAT, "chat"),
        (Self::GATEWAY, "gateway"),
        (Self::KNOWLEDGE, "knowledge"),
        (Self::ADMIN, "admin"),
        (Self::OPERATOR, "operator"),
    ];

    /// Whether this set contains every scope of `other`.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the scopes that are in both sets.
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns this set without the scopes of `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Parses a token's `scope` claim. Unknown words are ignored, because the claim may be shared with other services.
    pub fn from_claim(claim: &str) -> Self {
        claim.split(' ').filter_map(|word| word.parse().ok()).collect()
    }

    /// Lists the names of the scopes in the set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .filter(move |(scope, _)| self.contains(*scope))
            .map(|(_, name)| name)
    }
}

impl FromStr for Scopes {
    type Err = UnknownScope;

    /// Parses the name of one scope.
    fn from_str(name: &str) -> Result<Self, UnknownScope> {
        let found = Self::NAMES.into_iter().find(|(_, known)| *known == name);
        found.map(|(scope, _)| scope).ok_or(UnknownScope)
    }
}

impl FromIterator<Self> for Scopes {
    fn from_iter<I: IntoIterator<Item = Self>>(scopes: I) -> Self {
        scopes.into_iter().fold(Self::NONE, std::ops::BitOr::bitor)
    }
}

impl std::ops::BitOr for Scopes {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(" "))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let scopes: Result<Self, UnknownScope> = names.iter().map(|name| name.parse()).collect();
        scopes.map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_keeps_only_what_is_known() {
        let scopes = Scopes::from_claim("chat openid  admin Chat");
        assert_eq!(scopes, Scopes::CHAT | Scopes::ADMIN);
        assert_eq!(scopes.to_string(), "chat admin");
        assert!(scopes.contains(Scopes::CHAT) && !scopes.contains(Scopes::CHAT | Scopes::OPERATOR));
        assert_eq!(Scopes::from_claim(""), Scopes::NONE);
        assert_eq!(
            Scopes::NAMES.into_iter().map(|(scope, _)| scope).collect::<Scopes>(),
            Scopes::ALL
        );
        assert_eq!(
            Scopes::ALL.without(Scopes::OPERATOR).to_string(),
            "chat gateway knowledge admin"
        );
    }
}
