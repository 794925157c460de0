//! The going broker's log after the switch: the other process writes it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::frames::Ask;
use super::successor::Successor;
use crate::log::store::Store;

/// Appends through the successor.
pub struct RemoteLog(pub Arc<Successor>);

impl Store for RemoteLog {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let lines = String::from_utf8(lines.to_vec()).map_err(io::Error::other)?;
        match self.0.ask_blocking(Ask::Append { lines }) {
            Some(Ok(_)) => Ok(()),
            Some(Err(code)) => Err(io::Error::other(format!("the broker that took over refused it: {code}"))),
            None => Err(io::Error::other("the broker that took over is gone")),
        }
    }

    fn probe(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A store that can be exchanged while its writer runs, between two writes.
#[derive(Clone)]
pub struct SharedStore {
    store: Arc<Mutex<Box<dyn Store>>>,
    is_held: Arc<AtomicBool>,
}

impl SharedStore {
    pub fn new(store: Box<dyn Store>) -> Self {
        Self { store: Arc::new(Mutex::new(store)), is_held: Arc::default() }
    }

    /// Writes go to `store` from now on; what was written to before is closed.
    pub fn exchange(&self, store: Box<dyn Store>) {
        let before = std::mem::replace(&mut *self.lock(), store);
        drop(before);
    }

    /// While held, no new file is begun: entries of the going broker rely on certificates in the current one.
    pub fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::SeqCst);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Box<dyn Store>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for SharedStore {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.lock().append(lines)
    }

    fn probe(&mut self) -> io::Result<()> {
        self.lock().probe()
    }

    fn is_full(&self) -> bool {
        !self.is_held.load(Ordering::SeqCst) && self.lock().is_full()
    }

    fn roll(&mut self, next_n: u64) -> io::Result<()> {
        self.lock().roll(next_n)
    }
}
