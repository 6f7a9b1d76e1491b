//! The hash chain: what is hashed, and how a log is verified entry by entry.

use copilotd_actors::domain::hash::{PartHasher, derive_key};
use copilotd_actors::domain::ids::TenantId;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use copilotd_actors::ports::{Digest, Head, StoredEntry};

/// Hash before the first entry.
const GENESIS: Digest = [0; 32];

/// The key of the log's MACs.
#[derive(Clone)]
pub struct AuditKey([u8; 32]);

impl AuditKey {
    /// Derives the key from the server's `seal_key` (32 random bytes), for this purpose only.
    pub fn derive(key: &[u8; 32]) -> Self {
        Self(derive_key("copilotd audit log mac 1\0", key))
    }

    fn mac(&self, purpose: &[u8], parts: &[&[u8]]) -> Digest {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(purpose);
        let mac = PartHasher::with(mac).parts(parts).into_inner();
        mac.finalize().into_bytes().into()
    }

    /// Creates the entry that follows the entry with the hash `previous`.
    pub(super) fn entry(&self, tenant: &TenantId, n: i64, previous: &[u8], body: Vec<u8>) -> StoredEntry {
        let hash = hash(tenant, n, previous, &body);
        StoredEntry {
            n,
            body,
            hash: hash.to_vec(),
            mac: self.mac(b"entry\0", &[&hash]).to_vec(),
        }
    }

    /// Creates the head of a log whose newest entry has this number and hash.
    pub(super) fn head(&self, tenant: &TenantId, n: i64, hash: &[u8]) -> Head {
        Head {
            n,
            hash: hash.to_vec(),
            mac: self
                .mac(b"head\0", &[tenant.as_str().as_bytes(), &n.to_be_bytes(), hash])
                .to_vec(),
        }
    }

    /// Whether a head was created with this key.
    pub(super) fn is_own(&self, tenant: &TenantId, head: &Head) -> bool {
        self.head(tenant, head.n, &head.hash) == *head
    }

    /// Creates the head of an empty log.
    pub(super) fn genesis(&self, tenant: &TenantId) -> Head {
        self.head(tenant, 0, &GENESIS)
    }
}

impl std::fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditKey([redacted])")
    }
}

/// Hashes an entry. Each part is preceded by its length, so that no two entries have the same input.
fn hash(tenant: &TenantId, n: i64, previous: &[u8], body: &[u8]) -> Digest {
    PartHasher::with(Sha256::new_with_prefix("copilotd audit log 1\0"))
        .part(tenant.as_str())
        .number(n)
        .part(previous)
        .part(body)
        .finish()
}

/// How a log is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An entry was changed.
    Altered,
    /// An entry is missing, or one was inserted.
    Missing,
    /// Entries are missing from the end.
    Truncated,
    /// The head or the anchor, which say where the log ends, is missing or was changed.
    Head,
}

impl Fault {
    /// Returns the name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Altered => "altered",
            Self::Missing => "missing",
            Self::Truncated => "truncated",
            Self::Head => "head",
        }
    }
}

/// The first fault of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DamagedEntry {
    /// Number of the first damaged entry.
    pub n: i64,
    /// What is wrong with it.
    pub fault: Fault,
}

/// The result of verifying a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verification {
    /// Number of intact entries before the first fault.
    pub entries: u64,
    /// The first fault.
    pub first_bad: Option<DamagedEntry>,
}

/// Verifies a log from its first entry on, page by page.
pub(super) struct Checker<'a> {
    key: &'a AuditKey,
    tenant: &'a TenantId,
    head: Option<Head>,
    anchor: Option<Head>,
    n: i64,
    hash: Digest,
    bad: Option<DamagedEntry>,
}

impl<'a> Checker<'a> {
    /// Starts a verification. Read anchor and head before the first entry, so that entries added meanwhile are beyond
    /// them.
    pub(super) fn new(key: &'a AuditKey, tenant: &'a TenantId, head: Option<Head>, anchor: Option<Head>) -> Self {
        Self {
            key,
            tenant,
            head,
            anchor,
            n: 0,
            hash: GENESIS,
            bad: None,
        }
    }

    /// Checks the next entries; returns whether to go on.
    pub(super) fn take(&mut self, entries: &[StoredEntry]) -> bool {
        for entry in entries {
            let n = self.n + 1;
            if entry.n != n {
                return self.fail(n.min(entry.n.max(0)), Fault::Missing);
            }
            let expected = self.key.entry(self.tenant, n, &self.hash, entry.body.clone());
            if expected.hash != entry.hash || expected.mac != entry.mac {
                return self.fail(n, Fault::Altered);
            }
            self.hash.copy_from_slice(&expected.hash);
            self.n = n;
            // The head may lag behind the end; its hash is then that of an earlier entry.
            let is_other = |end: &Option<Head>| end.as_ref().is_some_and(|end| end.n == n && end.hash != expected.hash);
            if is_other(&self.head) || is_other(&self.anchor) {
                return self.fail(n, Fault::Head);
            }
        }
        true
    }

    /// Records that the next entries cannot be read.
    pub(super) fn unreadable(&mut self) {
        self.fail(self.n + 1, Fault::Altered);
    }

    fn fail(&mut self, n: i64, fault: Fault) -> bool {
        self.bad = Some(DamagedEntry { n, fault });
        false
    }

    /// Finishes the verification. `known` is the newest entry number that this process itself has seen stored.
    pub(super) fn finish(mut self, known: Option<i64>) -> Verification {
        if self.bad.is_none() {
            self.check_end(known);
        }
        Verification {
            entries: u64::try_from(self.n).unwrap_or(0),
            first_bad: self.bad,
        }
    }

    fn check_end(&mut self, known: Option<i64>) {
        let next = self.n + 1;
        match self.head.take() {
            // Nothing was ever recorded, unless this process has seen an entry (checked below).
            None if self.n == 0 => {}
            None => {
                self.fail(self.n, Fault::Head);
            }
            Some(head) if !self.key.is_own(self.tenant, &head) => {
                self.fail(self.n.max(1), Fault::Head);
            }
            Some(head) if head.n > self.n => {
                self.fail(next, Fault::Truncated);
            }
            // The log is ahead of the head: the process died between writing the two.
            Some(_) => {}
        }
        if self.bad.is_none() {
            match self.anchor.take() {
                Some(anchor) if !self.key.is_own(self.tenant, &anchor) => {
                    self.fail(self.n.max(1), Fault::Head);
                }
                Some(anchor) if anchor.n > self.n => {
                    self.fail(next, Fault::Truncated);
                }
                // After a crash the anchor may lag behind the log.
                _ => {}
            }
        }
        if self.bad.is_none() && known.is_some_and(|known| known > self.n) {
            self.fail(next, Fault::Truncated);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> TenantId {
        "acme".parse().unwrap()
    }

    fn key() -> AuditKey {
        AuditKey::derive(&[1; 32])
    }

    /// A log of `count` entries and its head.
    fn log(count: i64) -> (Vec<StoredEntry>, Head) {
        let (mut previous, mut entries) = (GENESIS.to_vec(), Vec::new());
        for n in 1..=count {
            let entry = key().entry(&tenant(), n, &previous, format!("entry {n}").into_bytes());
            previous.clone_from(&entry.hash);
            entries.push(entry);
        }
        (entries, key().head(&tenant(), count, &previous))
    }

    fn check(key: &AuditKey, entries: &[StoredEntry], head: Option<Head>) -> Verification {
        check_with(key, entries, head, None)
    }

    fn check_with(key: &AuditKey, entries: &[StoredEntry], head: Option<Head>, anchor: Option<Head>) -> Verification {
        let tenant = tenant();
        let mut checker = Checker::new(key, &tenant, head, anchor);
        for piece in entries.chunks(3) {
            if !checker.take(piece) {
                break;
            }
        }
        checker.finish(None)
    }

    fn first_bad(entries: &[StoredEntry], head: Option<Head>) -> Option<(i64, &'static str)> {
        let bad = check(&key(), entries, head).first_bad?;
        Some((bad.n, bad.fault.as_str()))
    }

    #[test]
    fn a_log_as_it_was_recorded_is_good() {
        for count in [0, 1, 2, 7] {
            let (entries, head) = log(count);
            let expected = Verification {
                entries: count as u64,
                first_bad: None,
            };
            assert_eq!(check(&key(), &entries, Some(head)), expected);
        }
        assert_eq!(first_bad(&[], None), None, "nothing was ever recorded");
        // The process died between an entry and its head.
        let (entries, _) = log(5);
        assert_eq!(first_bad(&entries, Some(log(4).1)), None);
        assert_eq!(first_bad(&entries[..1], Some(key().genesis(&tenant()))), None);
    }

    #[test]
    fn an_anchor_finds_what_was_deleted_with_its_head() {
        let (entries, head) = log(5);
        let bad = |entries: &[StoredEntry], head: Option<Head>, anchor: Head| {
            let bad = check_with(&key(), entries, head, Some(anchor)).first_bad?;
            Some((bad.n, bad.fault.as_str()))
        };
        // An anchor that lags or is level is fine: the process died before it was written.
        for count in 0..=5 {
            assert_eq!(bad(&entries, Some(head.clone()), log(count).1), None);
        }
        for count in 0..5_usize {
            let (_, older) = log(count as i64);
            let expected = Some((count as i64 + 1, "truncated"));
            assert_eq!(
                bad(&entries[..count], Some(older), head.clone()),
                expected,
                "put back to {count}"
            );
        }
        assert_eq!(bad(&[], None, head.clone()), Some((1, "truncated")));
        // Another log of the same length, an altered anchor, and another tenant's.
        let mut other = entries.clone();
        other[4] = key().entry(&tenant(), 5, &entries[3].hash, b"other".to_vec());
        let other_head = key().head(&tenant(), 5, &other[4].hash);
        assert_eq!(bad(&other, Some(other_head), head.clone()), Some((5, "head")));
        for n in [0, 4, 6, i64::MIN, i64::MAX] {
            let mut altered = head.clone();
            altered.n = n;
            assert!(bad(&entries, Some(head.clone()), altered).is_some(), "{n}");
        }
        let foreign = key().head(&"globex".parse().unwrap(), 5, &head.hash);
        assert_eq!(bad(&entries, Some(head), foreign), Some((5, "head")));
    }

    #[test]
    fn every_altered_bit_is_found() {
        let (entries, head) = log(5);
        for n in 0..entries.len() {
            for (column, length) in [(0, entries[n].body.len()), (1, 32), (2, 32)] {
                for bit in 0..length * 8 {
                    let mut altered = entries.clone();
                    let entry = &mut altered[n];
                    let bytes = [&mut entry.body, &mut entry.hash, &mut entry.mac];
                    bytes.into_iter().nth(column).unwrap()[bit / 8] ^= 1 << (bit % 8);
                    let expected = Some((n as i64 + 1, "altered"));
                    assert_eq!(
                        first_bad(&altered, Some(head.clone())),
                        expected,
                        "column {column} bit {bit}"
                    );
                }
            }
            for bit in 0..63 {
                let mut altered = entries.clone();
                altered[n].n ^= 1 << bit;
                assert!(first_bad(&altered, Some(head.clone())).is_some(), "number, bit {bit}");
            }
        }
        for bit in 0..32 * 8 {
            for column in [0, 1] {
                let mut altered = head.clone();
                let bytes = if column == 0 {
                    &mut altered.hash
                } else {
                    &mut altered.mac
                };
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(first_bad(&entries, Some(altered)), Some((5, "head")));
            }
        }
        for bit in 0..63 {
            let mut altered = head.clone();
            altered.n ^= 1 << bit;
            assert!(
                first_bad(&entries, Some(altered)).is_some(),
                "the head's number, bit {bit}"
            );
        }
    }

    #[test]
    fn removed_swapped_inserted_and_cut_off_entries_are_found() {
        let (entries, head) = log(6);
        let bad = |change: &dyn Fn(&mut Vec<StoredEntry>)| {
            let mut changed = entries.clone();
            change(&mut changed);
            first_bad(&changed, Some(head.clone()))
        };
        assert_eq!(bad(&|log| _ = log.remove(0)), Some((1, "missing")));
        assert_eq!(bad(&|log| _ = log.remove(2)), Some((3, "missing")));
        assert_eq!(bad(&|log| _ = log.pop()), Some((6, "truncated")));
        assert_eq!(bad(&|log| log.truncate(1)), Some((2, "truncated")));
        assert_eq!(bad(&|log| log.clear()), Some((1, "truncated")));
        assert_eq!(bad(&|log| log.swap(1, 2)), Some((2, "missing")));
        // Swapped with their numbers, and renumbered after a removal.
        let renumber = |log: &mut Vec<StoredEntry>| (1..).zip(log).for_each(|(n, entry)| entry.n = n);
        assert_eq!(
            bad(&|log| {
                log.swap(1, 2);
                renumber(log);
            }),
            Some((2, "altered"))
        );
        assert_eq!(
            bad(&|log| {
                log.remove(3);
                renumber(log);
            }),
            Some((4, "altered"))
        );
        assert_eq!(
            bad(&|log| {
                log.insert(1, log[0].clone());
                renumber(log);
            }),
            Some((2, "altered"))
        );
        assert_eq!(bad(&|log| log.insert(3, log[3].clone())), Some((4, "missing")));
        for n in [0, -5] {
            let mut stray = entries[0].clone();
            stray.n = n;
            assert_eq!(bad(&|log| log.insert(0, stray.clone())), Some((0, "missing")));
        }
        // Without the head, or with the head of another tenant or an empty log.
        assert_eq!(first_bad(&entries, None), Some((6, "head")));
        assert_eq!(first_bad(&entries[..5], None), Some((5, "head")));
        let other = key().head(&"globex".parse().unwrap(), 6, &head.hash);
        assert_eq!(first_bad(&entries, Some(other)), Some((6, "head")));
    }

    #[test]
    fn a_chain_that_was_computed_anew_without_the_key_is_found() {
        let other = AuditKey::derive(&[2; 32]);
        let (entries, head) = log(3);
        let bad = check(&other, &entries, Some(head)).first_bad.unwrap();
        assert_eq!(
            bad,
            DamagedEntry {
                n: 1,
                fault: Fault::Altered
            }
        );
    }

    #[test]
    fn what_the_process_itself_recorded_has_to_be_there() {
        let (entries, head) = log(2);
        let tenant = tenant();
        let key = key();
        for (known, expected) in [(None, None), (Some(2), None), (Some(4), Some(3))] {
            let mut checker = Checker::new(&key, &tenant, Some(head.clone()), None);
            checker.take(&entries);
            assert_eq!(checker.finish(known).first_bad.map(|bad| bad.n), expected);
        }
        // Entries and head wiped together.
        let bad = Checker::new(&key, &tenant, None, None).finish(Some(4)).first_bad;
        assert_eq!(bad.unwrap().fault, Fault::Truncated);
    }

    #[test]
    fn the_format_is_stored_and_stays() {
        let entry = key().entry(&"acme".parse().unwrap(), 1, &GENESIS, br#"{"n":1}"#.to_vec());
        let head = key().head(&"acme".parse().unwrap(), 1, &entry.hash);
        assert_eq!(
            [&entry.hash, &entry.mac, &head.mac].map(hex::encode),
            [
                "e439b524562b34f3a6c42805e20f42a6b69ca6ed5fe7f736be64935cdbbc0ef2",
                "877136ce3dabdb8547973d85b16083b2c9d10ed37a071bb50997a1f4ce921cb6",
                "e0d83f6de9b0b0c97857f43c122528a0a19f792375f25d4152955408b033c42e",
            ]
        );
    }
}
