//! What passed of a stream so far: shared by who sums it up and who tells of it.
//!
//! Owns: the running sum of one direction. Does not own: what is said of it (see `upload`, `opened`, `awaited`,
//! `voucher`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hopseal_custody::binding::{BodySum, BodySummer};
use http::HeaderMap;

use crate::grpc;
use crate::open_streams::Pulse;

/// The sum of a body that another task may ask for while it streams.
#[derive(Clone)]
pub struct Passing(Arc<Mutex<BodySummer>>, Arc<Pulse>);

impl Passing {
    /// Of the body behind this head.
    pub fn behind(list: &HeaderMap, pulse: Arc<Pulse>) -> Self {
        Self(Arc::new(Mutex::new(grpc::summer_of(list))), pulse)
    }

    /// Takes what is about to pass.
    ///
    /// # Errors
    /// It is not what the head says, and must not pass.
    pub fn update(&self, bytes: &[u8]) -> Result<(), &'static str> {
        self.1.touch();
        let mut sum = self.lock();
        sum.update(bytes);
        if sum.is_malformed() { Err("the body is no sequence of gRPC messages") } else { Ok(()) }
    }

    pub fn so_far(&self) -> BodySum {
        self.lock().so_far()
    }

    fn lock(&self) -> MutexGuard<'_, BodySummer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
