//! The check that what is embedded is what was built.

use std::collections::BTreeMap;

use rust_embed::RustEmbed;
use sha2::{Digest as _, Sha256};

/// Compares the embedded files with `web/dist/SHA256SUMS`. If this fails, `web/dist` was edited by hand or committed
/// only in part: run `scripts/web`. `folder` is the page's, below `web/dist`.
pub(super) fn match_sha256sums<E: RustEmbed>(folder: &str) {
    let list = concat!(env!("CARGO_MANIFEST_DIR"), "/web/dist/SHA256SUMS");
    let list = std::fs::read_to_string(list).unwrap();
    let listed: BTreeMap<String, String> = list
        .lines()
        .map(|line| line.split_once("  ").unwrap())
        .filter_map(|(hash, path)| {
            let name = path.strip_prefix(folder)?.strip_prefix('/')?;
            Some((name.to_owned(), hash.to_owned()))
        })
        .collect();
    let embedded: BTreeMap<String, String> = E::iter()
        .map(|name| {
            let content = E::get(&name).unwrap().data;
            (name.into_owned(), hex::encode(Sha256::digest(&content)))
        })
        .collect();
    assert!(!listed.is_empty());
    assert_eq!(embedded, listed);
}
