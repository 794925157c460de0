//! The files of a log: `custody.log`, which grows, and full ones, renamed to the number of their first entry.
//!
//! Owns: their names and order, and starting the next one. Does not own: writing or reading lines.
//!
//! Rolling: the next file is made and durable under a name of its own, then the full one is renamed, then the next one
//! takes its place. A crash between leaves no `custody.log`, which the next start makes again, or one without entries.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file that is written to.
pub const CURRENT: &str = "custody.log";
/// The next file until it takes the current one's place.
const NEXT: &str = "custody.log.next";

/// A full file that takes no more entries.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Closed {
    /// Number of its first entry.
    pub first_n: u64,
    pub path: PathBuf,
}

/// The full files of the log in `folder`, oldest first.
///
/// # Errors
/// The folder cannot be read.
pub fn list_closed(folder: &Path) -> io::Result<Vec<Closed>> {
    let mut closed = Vec::new();
    for found in fs::read_dir(folder)? {
        let name = found?.file_name();
        if let Some(first_n) = name.to_str().and_then(parse_name) {
            closed.push(Closed { first_n, path: folder.join(name) });
        }
    }
    closed.sort();
    Ok(closed)
}

/// Opens a file of the log for its one writer; never through a symbolic link.
///
/// # Errors
/// What the file system said, or it is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let file = options().create(true).truncate(false).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the log is not a regular file"));
    }
    Ok(file)
}

/// Closes the current file, whose first entry is `first_n`, and gives the empty one that follows it.
///
/// # Errors
/// The current file keeps its name and goes on.
pub fn roll(folder: &Path, first_n: u64) -> io::Result<File> {
    let (current, next) = (folder.join(CURRENT), folder.join(NEXT));
    remove_unfinished(folder)?;
    let closed = folder.join(format!("custody-{first_n:020}.log"));
    if closed.try_exists()? {
        return Err(io::Error::other(format!("{} is there already", closed.display())));
    }
    let file = options().create_new(true).open(&next)?;
    file.sync_all()?;
    fs::rename(&current, &closed)?;
    if let Err(error) = fs::rename(&next, &current) {
        fs::rename(&closed, &current)?;
        return Err(error);
    }
    sync_folder(folder)?;
    Ok(file)
}

/// Removes what a crash during [`roll`] left; it holds no entry.
///
/// # Errors
/// It is there and stays.
pub fn remove_unfinished(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(NEXT)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the names in `folder` durable.
///
/// # Errors
/// They may not survive a crash.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK);
    options
}

fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("custody-")?.strip_suffix(".log")?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_twenty_digits_are_full_files() {
        assert_eq!(parse_name("custody-00000000000000000042.log"), Some(42));
        for name in
            ["custody-42.log", "custody-0000000000000000004x.log", "custody.log", "custody-99999999999999999999.log"]
        {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }
}
