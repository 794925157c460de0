//! Trust bundles as the log has them.
//!
//! Owns: which bundle in force the log does not have yet. Does not own: what they verify (see `trust`).

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::log::{Entry, Log};

/// Authorities as DER, and the bundle's sequence.
pub type BundleContents = (Vec<Vec<u8>>, u64);

/// Bundles in force and those that the log knows of, by trust domain.
#[derive(Default)]
pub struct LoggedBundles {
    current: HashMap<String, BundleContents>,
    logged: HashMap<String, Vec<Vec<u8>>>,
}

impl LoggedBundles {
    /// Takes the bundles in force.
    pub fn replace(&mut self, current: HashMap<String, BundleContents>) {
        self.current = current;
    }

    /// Appends those that differ from what the log has.
    pub fn log_news(&mut self, log: &Log) {
        for (name, (authorities, sequence)) in &self.current {
            if self.logged.get(name) == Some(authorities) {
                continue;
            }
            let entry = Entry::Bundle {
                trust_domain: name.clone(),
                sequence: *sequence,
                x509: authorities.iter().map(|der| STANDARD.encode(der)).collect(),
            };
            if log.append_nowait(entry, Vec::new()).is_ok() {
                self.logged.insert(name.clone(), authorities.clone());
            }
        }
    }
}
