//! Where log lines go: one append-only file with one writer.
//!
//! Owns: the lock, the offset and durability. Does not own: what the lines say.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

use super::scan::{self, Scan};

/// File name inside the log folder.
pub const FILE_NAME: &str = "custody.log";
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
}

/// The file behind the log; holding it is holding the writer lock.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    length: u64,
}

impl LogFile {
    /// Opens or creates the log in `folder`, takes the writer lock, reads it and cuts a torn tail.
    /// Accepted records with `exp >= since` come back for the replay store.
    ///
    /// # Errors
    /// `WouldBlock` if another writer holds the lock, else what the file system said.
    pub fn open(folder: &Path, since: i64) -> io::Result<(Self, Scan)> {
        let path = folder.join(FILE_NAME);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the log is not a regular file"));
        }
        let found = scan::scan(BufReader::with_capacity(1 << 20, &file), since)?;
        if file.metadata()?.len() != found.length {
            file.set_len(found.length)?;
        }
        file.sync_all()?;
        // The name itself must survive a crash too.
        File::open(folder)?.sync_all()?;
        Ok((Self { file, length: found.length }, found))
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
        Ok(())
    }
}

impl Store for LogFile {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.verify_untouched()?;
        let written = self.file.write_all_at(lines, self.length).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Best effort: if it fails too, the next append overwrites the remains and a restart cuts them.
            let _overwritten_later = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += lines.len() as u64;
        Ok(())
    }

    fn probe(&mut self) -> io::Result<()> {
        self.verify_untouched()?;
        fallocate(&self.file, FallocateFlags::empty(), self.length, PROBE_BYTES)?;
        self.file.set_len(self.length)?;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("hopseal-log-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_second_writer_is_refused_while_the_first_lives() {
        let folder = folder("lock");
        let (first, _) = LogFile::open(&folder, 0).unwrap();
        assert_eq!(LogFile::open(&folder, 0).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        LogFile::open(&folder, 0).unwrap();
    }

    #[test]
    fn a_log_that_shrinks_under_us_takes_no_more_entries() {
        let folder = folder("shrink");
        let (mut log, _) = LogFile::open(&folder, 0).unwrap();
        log.append(b"0123456789").unwrap();
        File::options().write(true).open(folder.join(FILE_NAME)).unwrap().set_len(3).unwrap();
        assert!(log.append(b"x").is_err());
        assert!(log.probe().is_err());
    }

    #[test]
    fn a_probe_leaves_no_trace() {
        let folder = folder("probe");
        let (mut log, _) = LogFile::open(&folder, 0).unwrap();
        log.append(b"0123456789").unwrap();
        log.probe().unwrap();
        assert_eq!(std::fs::read(folder.join(FILE_NAME)).unwrap(), b"0123456789");
    }
}
