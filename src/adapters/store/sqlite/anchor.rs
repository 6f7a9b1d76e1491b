//! A second copy of each tenant's newest audit head, in a file outside the database.
//!
//! Deleting a tenant's audit entries together with their head leaves a database that looks as if nothing had ever been
//! recorded. This file keeps the newest head of each tenant, with its MAC. It is written after the commit and not
//! flushed: after a crash it may be behind the database, which is not a fault, but never ahead of it.
//!
//! The file is a header and one slot of [`SLOT`] bytes per tenant: a hash of the tenant's id, then number, hash and MAC
//! of its head. A slot never crosses a sector, so no crash leaves half of one. An operator who restores the database on
//! purpose deletes the file; it is then recreated from the heads in the database, with a warning in the log.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::Head;
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest as _, Sha256};

use crate::private_files;

/// File name inside the data directory.
const FILE: &str = "copilotd.audit";
/// First bytes of the file.
const MAGIC: &[u8] = b"copilotd audit anchors 1\n";
const SLOT: usize = 128;
/// Slots by which the file grows, so that a new tenant's first entry seldom needs disk space.
const GROWTH: usize = 32;

type Id = [u8; 16];

#[derive(Debug)]
pub(super) struct Anchor {
    file: Option<File>,
    slots: Mutex<HashMap<Id, (usize, Head)>>,
}

impl Anchor {
    /// Reads the file. Tenants that are missing from it get the heads of the database.
    pub(super) fn open(directory: &Path, heads: &[(String, Head)]) -> Self {
        let path = directory.join(FILE);
        let (file, slots) = match private_files::open(&path).and_then(|file| read(&file).map(|slots| (file, slots))) {
            Ok((file, slots)) => (Some(file), slots),
            Err(error) => {
                tracing::warn!(
                    path = %path.display(), %error,
                    "audit anchor file unreadable; continuing without it, so deleting an audit log together with its head would go unnoticed"
                );
                (None, None)
            }
        };
        let is_new = file.is_some() && slots.is_none();
        let anchor = Self {
            file,
            slots: Mutex::new(slots.unwrap_or_default()),
        };
        if is_new && !heads.is_empty() {
            tracing::warn!(
                path = %path.display(), tenants = heads.len(),
                "audit anchor file missing; recreated from the database. Expected after an upgrade or a restored backup, \
                 otherwise compare the audit logs with a backup"
            );
        }
        for (tenant, head) in heads {
            let known = anchor.slots().contains_key(&id(tenant));
            if !known {
                anchor.raise(tenant, head);
            }
        }
        anchor
    }

    /// Returns the tenant's newest recorded head.
    pub(super) fn of(&self, tenant: &TenantId) -> Option<Head> {
        self.slots().get(&id(tenant.as_str())).map(|(_, head)| head.clone())
    }

    /// Records a committed head, unless a newer one is recorded already. Blocks briefly.
    pub(super) fn raise(&self, tenant: &str, head: &Head) {
        let (id, mut slots) = (id(tenant), self.slots());
        let (Some(file), Some(bytes)) = (&self.file, encode(id, head)) else {
            return;
        };
        let slot = match slots.get(&id) {
            Some((_, noted)) if noted.n >= head.n => return,
            Some((slot, _)) => *slot,
            None => 1 + slots.values().map(|(slot, _)| *slot).max().unwrap_or(0),
        };
        if let Err(error) = write(file, slot, &bytes) {
            tracing::warn!(tenant, n = head.n, %error, "audit anchor not written; it lags behind the audit log until the next entry");
            return;
        }
        slots.insert(id, (slot, head.clone()));
    }

    /// Removes a tenant's anchor; its log starts over. Blocks briefly.
    ///
    /// The last slot is copied into the freed one before it is cleared, so a crash in between leaves a duplicate and
    /// loses none.
    pub(super) fn forget(&self, tenant: &TenantId) -> io::Result<()> {
        let (id, mut slots) = (id(tenant.as_str()), self.slots());
        let (Some(file), Some((freed, _))) = (&self.file, slots.get(&id).cloned()) else {
            return Ok(());
        };
        let last = slots.values().map(|(slot, _)| *slot).max().unwrap_or(freed);
        let moved = slots
            .iter()
            .find(|(_, (slot, _))| *slot == last && last != freed)
            .map(|(id, (_, head))| (*id, head.clone()));
        if let Some((moved, head)) = moved
            && let Some(bytes) = encode(moved, &head)
        {
            write(file, freed, &bytes)?;
            slots.insert(moved, (freed, head));
        }
        write(file, last, &[0; SLOT])?;
        slots.remove(&id);
        Ok(())
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Id, (usize, Head)>> {
        self.slots.lock()
    }
}

fn id(tenant: &str) -> Id {
    let digest: [u8; 32] = Sha256::digest(tenant.as_bytes()).into();
    std::array::from_fn(|index| digest[index])
}

/// Encodes a slot; `None` for a head that no release writes.
fn encode(id: Id, head: &Head) -> Option<[u8; SLOT]> {
    let (hash, mac): ([u8; 32], [u8; 32]) = (
        head.hash.as_slice().try_into().ok()?,
        head.mac.as_slice().try_into().ok()?,
    );
    let mut slot = [0; SLOT];
    slot[..16].copy_from_slice(&id);
    slot[16..24].copy_from_slice(&head.n.to_be_bytes());
    slot[24..56].copy_from_slice(&hash);
    slot[56..88].copy_from_slice(&mac);
    Some(slot)
}

fn write(file: &File, slot: usize, bytes: &[u8; SLOT]) -> io::Result<()> {
    let at = (slot * SLOT) as u64;
    if file.metadata()?.len() <= at {
        file.write_all_at(&[0; SLOT * GROWTH], at)?;
    }
    file.write_all_at(bytes, at)
}

/// Reads all slots; `None` if the file is new or not one of ours.
fn read(file: &File) -> io::Result<Option<HashMap<Id, (usize, Head)>>> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    if !bytes.starts_with(MAGIC) {
        let mut header = [0; SLOT];
        header[..MAGIC.len()].copy_from_slice(MAGIC);
        file.set_len(0)?;
        file.write_all_at(&header, 0)?;
        return Ok(None);
    }
    let mut slots = HashMap::new();
    for (slot, bytes) in bytes.chunks_exact(SLOT).enumerate().skip(1) {
        let (Some(id), Some(n)) = (bytes.first_chunk::<16>(), bytes[16..].first_chunk::<8>()) else {
            continue;
        };
        if *id == [0; 16] {
            break;
        }
        let head = Head {
            n: i64::from_be_bytes(*n),
            hash: bytes[24..56].to_vec(),
            mac: bytes[56..88].to_vec(),
        };
        slots.insert(*id, (slot, head));
    }
    Ok(Some(slots))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(n: i64) -> Head {
        Head {
            n,
            hash: vec![n.unsigned_abs() as u8; 32],
            mac: vec![9; 32],
        }
    }

    fn tenant(n: usize) -> String {
        format!("tenant-{n}")
    }

    #[test]
    fn heads_are_kept_for_many_tenants_and_never_go_back() {
        let directory = tempfile::tempdir().unwrap();
        let anchor = Anchor::open(directory.path(), &[]);
        for round in 1..4 {
            for n in 0..100 {
                anchor.raise(&tenant(n), &head(round * 10 + n as i64));
                anchor.raise(&tenant(n), &head(round));
            }
        }
        for anchor in [anchor, Anchor::open(directory.path(), &[(tenant(3), head(999))])] {
            for n in 0..100 {
                assert_eq!(anchor.of(&tenant(n).parse().unwrap()), Some(head(30 + n as i64)), "{n}");
            }
            assert_eq!(anchor.of(&tenant(100).parse().unwrap()), None);
        }
    }

    #[test]
    fn a_forgotten_tenant_begins_anew_and_others_stay() {
        let directory = tempfile::tempdir().unwrap();
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
            let anchor = Anchor::open(directory.path(), &[]);
            (0..4).for_each(|n| anchor.raise(&tenant(n), &head(10 + n as i64)));
            for (gone, n) in order.into_iter().enumerate() {
                anchor.forget(&tenant(n).parse().unwrap()).unwrap();
                anchor.forget(&tenant(n).parse().unwrap()).unwrap();
                for anchor in [&anchor, &Anchor::open(directory.path(), &[])] {
                    for m in 0..4 {
                        let expected = (!order[..=gone].contains(&m)).then(|| head(10 + m as i64));
                        assert_eq!(anchor.of(&tenant(m).parse().unwrap()), expected, "{m} of {order:?}");
                    }
                }
            }
            anchor.raise(&tenant(7), &head(1));
            assert_eq!(anchor.of(&tenant(7).parse().unwrap()), Some(head(1)));
            anchor.forget(&tenant(7).parse().unwrap()).unwrap();
        }
    }

    #[test]
    fn a_missing_or_foreign_file_is_recreated_from_the_database() {
        for text in [None, Some(""), Some("x"), Some("copilotd audit anchors 2\n....")] {
            let directory = tempfile::tempdir().unwrap();
            if let Some(text) = text {
                std::fs::write(directory.path().join(FILE), text).unwrap();
            }
            let heads = [(tenant(1), head(4)), (tenant(2), head(i64::MAX))];
            for _ in 0..2 {
                let anchor = Anchor::open(directory.path(), &heads);
                assert_eq!(anchor.of(&tenant(1).parse().unwrap()), Some(head(4)));
                assert_eq!(anchor.of(&tenant(2).parse().unwrap()), Some(head(i64::MAX)));
            }
        }
    }
}
