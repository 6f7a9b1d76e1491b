//! The roles of a user, as the tenant's identity provider names them: documents can be opened to them.

use std::collections::BTreeSet;

/// Maximum number of roles that a turn remembers.
const MAX_ROLES: usize = 64;
/// Maximum bytes of these roles together.
const MAX_BYTES: usize = 4 * 1024;

/// Returns the roles that a turn remembers: sorted, each once, as many as the bounds allow. A role that is left out
/// only takes access away.
pub fn bounded_roles(roles: impl IntoIterator<Item = String>) -> Vec<String> {
    let roles: BTreeSet<String> = roles.into_iter().filter(|role| !role.is_empty()).collect();
    let mut bytes = 0;
    let fits = |role: &String| {
        bytes += role.len();
        bytes <= MAX_BYTES
    };
    roles.into_iter().take(MAX_ROLES).take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_sorted_and_bounded() {
        let roles = ["lead", "hr", "", "hr"].map(str::to_owned);
        assert_eq!(bounded_roles(roles), ["hr", "lead"]);
        assert_eq!(bounded_roles((0..1000).map(|n| format!("role {n}"))).len(), MAX_ROLES);
        let long = bounded_roles((0..60).map(|n| format!("{n:02}{}", "r".repeat(1000))));
        assert_eq!(long.len(), 4);
    }
}
