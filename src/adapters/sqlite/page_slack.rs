//! Clears what is left of deleted rows in the unused parts ("slack") of database pages.
//!
//! With `secure_delete` SQLite overwrites a deleted row in place. When SQLite moves rows between pages, though, it
//! leaves their old bytes in the unused part of the page they came from, so a row that is erased later has copies
//! there. An erasure therefore overwrites the unused parts of all pages that changed since the previous erasure, in the
//! file itself.
//!
//! Invariants: pages are changed only on the writer's thread, which is the only one that checkpoints, and only in parts
//! that SQLite does not read; every page that a checkpoint writes is recorded before; the file stays open as long as
//! any connection, because closing it would release SQLite's own locks on it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::Connection;
use rusqlite::hooks::Wal;

use super::failure::Failure;
use super::reserve::Reserve;

/// Number of changed pages that are remembered; if there are more, all pages of the file are checked.
const MAX_CHANGED: usize = 256 * 1024;
/// Pages checked in one step, so that other writers get their turn in between.
const SLICE: usize = 256;
/// Header sizes of the write-ahead log and of each page in it.
const LOG_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;
/// Offset of the salt in the log's header, which all pages of one round carry.
const LOG_SALT: u64 = 16;
/// Size of the file header, at the beginning of the first page.
const FILE_HEADER: usize = 100;

#[derive(Debug)]
pub(crate) struct PageSlack {
    database: File,
    write_ahead_log: PathBuf,
    /// Bytes in the write-ahead log after the last commit.
    logged: Arc<AtomicU64>,
    changed: Mutex<ChangedPages>,
}

/// Pages that changed and were not checked yet.
#[derive(Debug)]
enum ChangedPages {
    /// Unknown pages: all have to be checked.
    All,
    These(BTreeSet<u32>),
}

impl PageSlack {
    /// Takes an open database file. What an earlier process changed is unknown.
    pub(crate) fn new(database: File, path: &Path) -> Self {
        let mut write_ahead_log = path.as_os_str().to_owned();
        write_ahead_log.push("-wal");
        Self {
            database,
            write_ahead_log: write_ahead_log.into(),
            logged: Arc::default(),
            changed: Mutex::new(ChangedPages::All),
        }
    }

    /// Measures the write-ahead log from now on, in place of SQLite's automatic checkpoints.
    pub(crate) fn watch(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let logged = Arc::clone(&self.logged);
        let page: u64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        connection.wal_hook(Some(move |_: &mut Wal, pages| {
            let pages = u64::try_from(pages).unwrap_or(0);
            logged.store(pages * (page + FRAME_HEADER), Ordering::Relaxed);
            Ok(())
        }))
    }

    /// Bytes committed to the write-ahead log since the last checkpoint began.
    pub(crate) fn logged_bytes(&self) -> u64 {
        self.logged.load(Ordering::Relaxed)
    }

    /// Records which pages a checkpoint is about to write.
    pub(crate) fn record_log_pages(&self) {
        self.logged.store(0, Ordering::Relaxed);
        let noted = self.read_log();
        let mut changed = self.changed();
        match (noted, &mut *changed) {
            (Ok(pages), ChangedPages::These(known)) => {
                known.extend(pages);
                if known.len() > MAX_CHANGED {
                    *changed = ChangedPages::All;
                }
            }
            (Ok(_), ChangedPages::All) => {}
            (Err(error), _) => {
                tracing::warn!(%error, "cannot read the write-ahead log; the next erasure checks all pages of the database");
                *changed = ChangedPages::All;
            }
        }
    }

    /// Numbers of the pages in the write-ahead log since it was last restarted, checkpointed ones included.
    fn read_log(&self) -> io::Result<BTreeSet<u32>> {
        let log = match File::open(&self.write_ahead_log) {
            Ok(log) => log,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(error),
        };
        let length = log.metadata()?.len();
        let page_size = u64::from(self.page_size()?);
        let mut pages = BTreeSet::new();
        if length < LOG_HEADER {
            return Ok(pages);
        }
        let (mut salt, mut frame) = ([0; 8], [0; 16]);
        log.read_exact_at(&mut salt, LOG_SALT)?;
        let mut at = LOG_HEADER;
        while at + FRAME_HEADER + page_size <= length {
            log.read_exact_at(&mut frame, at)?;
            let [a, b, c, d, _, _, _, _, rest @ ..] = frame;
            // The frames behind this one belong to an earlier round and were recorded then.
            if rest != salt {
                break;
            }
            pages.insert(u32::from_be_bytes([a, b, c, d]));
            at += FRAME_HEADER + page_size;
        }
        Ok(pages)
    }

    fn page_size(&self) -> io::Result<u32> {
        let mut size = [0; 2];
        self.database.read_exact_at(&mut size, 16)?;
        Ok(match u16::from_be_bytes(size) {
            1 => 65_536,
            size => u32::from(size),
        })
    }

    fn pages(&self) -> io::Result<u32> {
        let length = self.database.metadata()?.len();
        Ok(u32::try_from(length / u64::from(self.page_size()?)).unwrap_or(u32::MAX))
    }

    /// Takes the pages to be checked. Dropped before they are done, they are put back.
    pub(crate) fn take(self: &Arc<Self>) -> io::Result<PagesToClear> {
        let changed = std::mem::replace(&mut *self.changed(), ChangedPages::These(BTreeSet::new()));
        let mut taken = PagesToClear {
            slack: Arc::clone(self),
            left: Some(changed),
            slices: Vec::new(),
        };
        taken.slices = match &taken.left {
            Some(ChangedPages::These(pages)) => {
                let pages: Vec<u32> = pages.iter().copied().collect();
                pages.chunks(SLICE).map(<[u32]>::to_vec).collect()
            }
            _ => {
                let pages = self.pages()?;
                (1..=pages)
                    .step_by(SLICE)
                    .map(|first| (first..=pages).take(SLICE).collect())
                    .collect()
            }
        };
        Ok(taken)
    }

    /// Returns whether so few pages changed that one step can check them all.
    pub(crate) fn is_nearly_clean(&self) -> bool {
        matches!(&*self.changed(), ChangedPages::These(pages) if pages.len() <= 4 * SLICE)
    }

    /// Overwrites the unused parts of some pages, on the writer's thread and outside a transaction.
    pub(crate) fn clear(&self, connection: &Connection, pages: &[u32]) -> Result<(), Failure> {
        // Holds off other programs that write: none are expected, but a backup tool may be one.
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let cleared = self.clear_pages(pages);
        connection.execute_batch("ROLLBACK")?;
        cleared.map_err(|error| Failure::PageSlack(error.to_string()))
    }

    /// Checkpoints and truncates the write-ahead log and clears the pages it contained, so that no copy of a deleted
    /// row is left anywhere. Returns false if readers prevented the truncation: try again later.
    pub(crate) fn finish(self: &Arc<Self>, connection: &Connection, reserve: &Reserve) -> Result<bool, Failure> {
        self.record_log_pages();
        if !reserve.truncate_log(connection)? {
            return Ok(false);
        }
        let taken = self.take().map_err(|error| Failure::PageSlack(error.to_string()))?;
        for pages in &taken.slices {
            self.clear(connection, pages)?;
        }
        taken.done();
        // Pages in SQLite's memory still have the old bytes, and would be written with them.
        connection.execute_batch("PRAGMA shrink_memory")?;
        self.database
            .sync_data()
            .map_err(|error| Failure::PageSlack(error.to_string()))?;
        Ok(true)
    }

    fn clear_pages(&self, pages: &[u32]) -> io::Result<()> {
        let (size, all) = (self.page_size()?, self.pages()?);
        if KINDS.iter().any(|kind| is_ambiguous(*kind, all)) {
            tracing::warn!(
                "database too large to overwrite the unused parts of all its pages, which may still hold erased text; \
                 stop copilotd and run VACUUM"
            );
        }
        let mut page = vec![0; size as usize];
        for number in pages.iter().copied().filter(|number| *number > 0) {
            let at = u64::from(number - 1) * u64::from(size);
            match self.database.read_exact_at(&mut page, at) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                Err(error) => return Err(error),
            }
            for part in unused(&page, number, all) {
                if page[part.clone()].iter().any(|byte| *byte != 0) {
                    page[part.clone()].fill(0);
                    self.database
                        .write_all_at(&page[part.clone()], at + part.start as u64)?;
                }
            }
        }
        Ok(())
    }

    fn changed(&self) -> MutexGuard<'_, ChangedPages> {
        self.changed.lock()
    }
}

/// Pages to be checked.
pub(crate) struct PagesToClear {
    slack: Arc<PageSlack>,
    left: Option<ChangedPages>,
    pub(crate) slices: Vec<Vec<u32>>,
}

impl PagesToClear {
    /// Records that all of them were cleared.
    pub(crate) fn done(mut self) {
        self.left = None;
    }
}

impl Drop for PagesToClear {
    fn drop(&mut self) {
        let Some(left) = self.left.take() else { return };
        let mut changed = self.slack.changed();
        match (left, &mut *changed) {
            (ChangedPages::These(left), ChangedPages::These(known)) => known.extend(left),
            _ => *changed = ChangedPages::All,
        }
    }
}

/// First bytes of B-tree pages.
const KINDS: [u8; 4] = [INDEX_INTERIOR, TABLE_INTERIOR, INDEX_LEAF, TABLE_LEAF];
const INDEX_INTERIOR: u8 = 2;
const TABLE_INTERIOR: u8 = 5;
const INDEX_LEAF: u8 = 10;
const TABLE_LEAF: u8 = 13;

/// Whether an overflow page, which begins with the number of the next one, may look like a B-tree page of this kind in a
/// file of `all` pages.
fn is_ambiguous(kind: u8, all: u32) -> bool {
    u32::from(kind) << 24 <= all
}

/// The unused parts of a B-tree page: the gap between the cell pointers and the cells, and the free blocks after their
/// own headers. Empty for pages of other kinds, and for those that may be of another kind in a file of `all` pages.
fn unused(page: &[u8], number: u32, all: u32) -> Vec<Range<usize>> {
    let header = if number == 1 { FILE_HEADER } else { 0 };
    if page.get(header).is_none_or(|kind| is_ambiguous(*kind, all)) {
        return Vec::new();
    }
    let short = |at: usize| Some(usize::from(u16::from_be_bytes([*page.get(at)?, *page.get(at + 1)?])));
    let cells = match page.get(header) {
        Some(&(INDEX_INTERIOR | TABLE_INTERIOR)) => header + 12,
        Some(&(INDEX_LEAF | TABLE_LEAF)) => header + 8,
        _ => return Vec::new(),
    };
    let parts = || {
        let gap_from = cells + 2 * short(header + 3)?;
        let gap_to = match short(header + 5)? {
            0 => 65_536,
            at => at,
        };
        let gap = gap_from..gap_to;
        let mut parts = vec![gap];
        let mut block = short(header + 1)?;
        let mut end = gap_to;
        while block != 0 {
            let (next, size) = (short(block)?, short(block + 2)?);
            // Free blocks are in the cell area, in ascending order; anything else is not a page of SQLite's.
            if block < end || size < 4 {
                return None;
            }
            end = block + size;
            parts.push(block + 4..end);
            block = next;
        }
        let whole = parts
            .iter()
            .all(|part| part.start <= part.end && part.end <= page.len());
        whole.then_some(parts)
    };
    parts().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Edit<'a> = &'a dyn Fn(&mut [u8]);

    fn page(edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut page = vec![7; 512];
        edit(&mut page);
        page
    }

    fn put(page: &mut [u8], at: usize, values: &[u16]) {
        for (index, value) in values.iter().enumerate() {
            page[at + 2 * index..at + 2 * index + 2].copy_from_slice(&value.to_be_bytes());
        }
    }

    #[test]
    fn only_unused_parts_are_found() {
        let leaf = |kind: u8, header: usize| {
            page(|page| {
                page[header] = kind;
                // First free block, two cells, cells from 300.
                put(page, header + 1, &[400, 2, 300]);
                put(page, 400, &[450, 20]);
                put(page, 450, &[0, 4]);
            })
        };
        for (number, header) in [(1, 100), (2, 0), (9, 0)] {
            for (kind, length) in [(2, 12), (5, 12), (10, 8), (13, 8)] {
                assert_eq!(
                    unused(&leaf(kind, header), number, 100),
                    [header + length + 4..300, 404..420, 454..454]
                );
            }
            for kind in [0, 1, 3, 7, 255] {
                assert!(unused(&leaf(kind, header), number, 100).is_empty());
            }
        }
        // What only looks like a B-tree page is not changed.
        let broken: [Edit<'_>; 6] = [
            &|page| put(page, 3, &[9_000]),
            &|page| put(page, 5, &[3]),
            &|page| put(page, 5, &[600]),
            &|page| put(page, 1, &[200]),
            &|page| put(page, 402, &[3]),
            &|page| put(page, 400, &[400]),
        ];
        for edit in broken {
            let mut page = leaf(13, 0);
            edit(&mut page);
            assert!(unused(&page, 2, 100).is_empty());
        }
        assert!(unused(&[], 2, 100).is_empty());
        assert!(unused(&[13], 2, 100).is_empty());
        // In a large file the number at the beginning of an overflow page may begin with the byte of a B-tree page.
        for (kind, all, is_cleared) in [
            (2, (2 << 24) - 1, true),
            (2, 2 << 24, false),
            (5, 2 << 24, true),
            (5, 5 << 24, false),
            (13, (13 << 24) - 1, true),
            (13, 13 << 24, false),
        ] {
            assert_eq!(!unused(&leaf(kind, 0), 2, all).is_empty(), is_cleared, "{kind} {all}");
        }
    }
}
