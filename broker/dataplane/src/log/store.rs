//! Where log lines go: append-only files in one folder, with one writer.
//!
//! Owns: the lock, the offset, durability, and what must be read again at start. Does not own: what the lines say,
//! the files' names ([`segments`]).

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

use super::reserve::Reserve;
use super::scan::{self, Scan};
use super::segments::{self, CURRENT, Closed};

/// How much space a log that failed must find again before it counts as recovered.
const PROBE_BYTES: u64 = 64 << 10;

/// Something that keeps bytes durably, in order, or says that it did not.
pub trait Store: Send {
    /// Appends `lines` durably.
    ///
    /// # Errors
    /// Nothing of `lines` counts as written; the next append takes their place.
    fn append(&mut self, lines: &[u8]) -> io::Result<()>;

    /// Whether an append would find space now.
    ///
    /// # Errors
    /// It would not.
    fn probe(&mut self) -> io::Result<()>;

    /// Whether it is time for [`Store::roll`].
    fn is_full(&self) -> bool {
        false
    }

    /// Begins the next file, whose first entry will be `next_n`.
    ///
    /// # Errors
    /// The full file goes on.
    fn roll(&mut self, _next_n: u64) -> io::Result<()> {
        Ok(())
    }
}

/// The files behind the log; holding it is holding the writer lock.
#[derive(Debug)]
pub struct LogFiles {
    folder: PathBuf,
    /// Held for the lock: it outlives the files, which come and go.
    _lock: File,
    file: File,
    length: u64,
    reserve: Reserve,
    first_n: u64,
    segment_bytes: u64,
    /// Remains of a failed append may lie behind `length`.
    has_remains: bool,
}

impl LogFiles {
    /// Opens or creates the log in `folder`, takes the writer lock, reads what can still matter and cuts a torn tail.
    /// Accepted records with `exp >= since` come back for the replay store. A file that reaches `segment_bytes` is full.
    ///
    /// # Errors
    /// `WouldBlock` if another writer holds the lock, else what the file system said.
    pub fn open(folder: &Path, since: i64, segment_bytes: u64) -> io::Result<(Self, Scan)> {
        let lock = File::open(folder)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        segments::remove_unfinished(folder)?;
        let mut closed = segments::list_closed(folder)?;
        let file = segments::open(&folder.join(CURRENT))?;
        let mut found = read(&file, since)?;
        cut(&file, found.length)?;
        let (length, first_n) = (found.length, found.first_n);
        if found.is_empty() {
            found = read_last(closed.pop(), since)?;
            // Certificates and bundles stand in each file that needs them; a new one has none yet.
            found.certificates.clear();
        }
        while let Some(earlier) = found.may_matter_before(since).then(|| closed.pop()).flatten() {
            found = read(&File::open(&earlier.path)?, since)?.followed_by(found);
        }
        if found.may_matter_before(since) {
            // Files that are gone may have held records that can still be replayed.
            found.damaged += 1;
        }
        let first_n = first_n.unwrap_or(found.next_n);
        // The names must survive a crash too.
        segments::sync_folder(folder)?;
        let (folder, reserve) = (folder.to_owned(), Reserve::none(length));
        Ok((Self { folder, _lock: lock, file, length, reserve, first_n, segment_bytes, has_remains: false }, found))
    }

    /// Someone else's hand on the file means that earlier entries may be gone: refuse to go on.
    fn verify_untouched(&self) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        if metadata.nlink() == 0 {
            return Err(io::Error::other("the log file was removed"));
        }
        if metadata.len() < self.length {
            return Err(io::Error::other("the log file was truncated"));
        }
        let named = fs::symlink_metadata(self.folder.join(CURRENT));
        if !named.is_ok_and(|named| (named.dev(), named.ino()) == (metadata.dev(), metadata.ino())) {
            return Err(io::Error::other("the log file was renamed or replaced"));
        }
        Ok(())
    }

    /// A truncation after [`Self::verify_untouched`] looked leaves a hole where the line before ended.
    fn verify_joined(&self) -> io::Result<()> {
        let Some(before) = self.length.checked_sub(1) else { return Ok(()) };
        let mut end = [0];
        self.file.read_exact_at(&mut end, before)?;
        if end == *b"\n" { Ok(()) } else { Err(io::Error::other("the log file was truncated")) }
    }

    fn cut_remains(&mut self) -> io::Result<()> {
        if self.has_remains {
            self.file.set_len(self.length)?;
            self.reserve = Reserve::none(self.length);
            self.has_remains = false;
        }
        Ok(())
    }
}

impl Drop for LogFiles {
    fn drop(&mut self) {
        // Whoever reads the files of a broker that has ended finds lines only.
        let _cut_at_the_next_start = self.reserve.give_back(&self.file, self.length);
    }
}

impl Store for LogFiles {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.verify_untouched()?;
        self.cut_remains()?;
        let end = self.length + lines.len() as u64;
        self.reserve.extend(&self.file, end, self.segment_bytes);
        let written = self.file.write_all_at(lines, self.length).and_then(|()| self.file.sync_data());
        if let Err(error) = written.and_then(|()| self.verify_joined()) {
            // Whole lines may have reached the disk: nothing is appended behind them, see `cut_remains`.
            self.has_remains = true;
            let _cut_by_the_next_append = self.cut_remains();
            return Err(error);
        }
        self.length = end;
        self.reserve.note_written(end);
        Ok(())
    }

    fn probe(&mut self) -> io::Result<()> {
        self.verify_untouched()?;
        self.cut_remains()?;
        fallocate(&self.file, FallocateFlags::empty(), self.length, PROBE_BYTES)?;
        self.file.set_len(self.length)?;
        self.reserve = Reserve::none(self.length);
        self.file.sync_data()
    }

    fn is_full(&self) -> bool {
        self.length >= self.segment_bytes
    }

    fn roll(&mut self, next_n: u64) -> io::Result<()> {
        self.verify_untouched()?;
        self.cut_remains()?;
        // A full file ends with its last line, also after a crash.
        self.reserve.give_back(&self.file, self.length)?;
        self.file.sync_all()?;
        self.file = segments::roll(&self.folder, self.first_n)?;
        self.length = 0;
        self.reserve = Reserve::none(0);
        self.first_n = next_n;
        Ok(())
    }
}

fn read(file: &File, since: i64) -> io::Result<Scan> {
    scan::scan(BufReader::with_capacity(1 << 20, file), since)
}

/// The end of a log whose current file has no entry: that of the last full one, repaired like a current one's.
fn read_last(last: Option<Closed>, since: i64) -> io::Result<Scan> {
    let Some(last) = last else { return Ok(Scan::default()) };
    let file = segments::open(&last.path)?;
    let mut found = read(&file, since)?;
    cut(&file, found.length)?;
    found.next_n = found.next_n.max(last.first_n);
    Ok(found)
}

/// Cuts a torn tail off.
fn cut(file: &File, length: u64) -> io::Result<()> {
    if file.metadata()?.len() != length {
        file.set_len(length)?;
    }
    file.sync_all()
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
