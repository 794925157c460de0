//! Space ahead of a file's end, written with zeros before it is needed.
//!
//! Owns: how far it goes, and that it is given back. Does not own: what is written (`store`).
//!
//! A write that makes a file longer is durable only with the file system's own journal, which takes longer than the
//! write; one into bytes that were written before needs none of it. No line has a zero byte, so a reader sees where the
//! log ends.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// So much is written ahead at a time: a call waits for it now and then.
const AHEAD: u64 = 1 << 20;
const ZEROS: &[u8] = &[0; 64 << 10];

/// The space ahead of one file.
#[derive(Debug, Default)]
pub struct Reserve {
    /// How long the file is.
    end: u64,
    /// Nothing is written ahead before the file is so long: there was no space.
    from: u64,
}

impl Reserve {
    /// None, in a file that is so long.
    pub fn none(end: u64) -> Self {
        Self { end, from: 0 }
    }

    /// Makes room for bytes up to `wanted`, not beyond `limit`, unless there is no space: then the next write says so.
    pub fn extend(&mut self, file: &File, wanted: u64, limit: u64) {
        let end = (wanted + AHEAD).min(limit);
        if wanted <= self.end || wanted < self.from || end <= wanted {
            return;
        }
        match write_zeros(file, self.end, end) {
            Ok(()) => self.end = end,
            Err(_no_space) => {
                // What is there of it takes the space that lines need.
                let _grows_into_it = file.set_len(self.end);
                self.from = end;
            }
        }
    }

    /// What was written reaches so far.
    pub fn note_written(&mut self, end: u64) {
        self.end = self.end.max(end);
    }

    /// Gives back what lies behind `length`.
    ///
    /// # Errors
    /// It is still there.
    pub fn give_back(&mut self, file: &File, length: u64) -> io::Result<()> {
        if self.end > length {
            file.set_len(length)?;
            self.end = length;
        }
        Ok(())
    }
}

fn write_zeros(file: &File, start: u64, end: u64) -> io::Result<()> {
    let mut at = start;
    while at < end {
        let count = ZEROS.len().min(usize::try_from(end - at).unwrap_or(ZEROS.len()));
        file.write_all_at(&ZEROS[..count], at)?;
        at += count as u64;
    }
    Ok(())
}
