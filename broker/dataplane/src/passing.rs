//! What passed of a stream so far: shared by who sums it up and who tells of it.
//!
//! Owns: the running sum of one direction. Does not own: what is said of it (see `upload`, `opened`, `awaited`,
//! `voucher`, `segments`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hopseal_custody::binding::{BodySum, BodySummer};
use hopseal_custody::frames::{FrameReader, Passed};
use http::HeaderMap;

use crate::grpc;
use crate::open_streams::Pulse;

/// The sum of a direction that another task may ask for while it streams.
#[derive(Clone)]
pub struct Passing(Arc<Mutex<Sum>>, Arc<Pulse>);

enum Sum {
    Body(BodySummer),
    Frames(FrameReader),
}

impl Passing {
    /// Of the body behind this head.
    pub fn behind(list: &HeaderMap, pulse: Arc<Pulse>) -> Self {
        Self(Arc::new(Mutex::new(Sum::Body(grpc::summer_of(list)))), pulse)
    }

    /// Of the frames of a WebSocket's client, which are masked, or its server.
    pub fn frames(masked: bool, pulse: Arc<Pulse>) -> Self {
        Self(Arc::new(Mutex::new(Sum::Frames(FrameReader::new(masked)))), pulse)
    }

    /// Takes what is about to pass.
    ///
    /// # Errors
    /// It is not what it was said to be, and must not pass.
    pub fn update(&self, bytes: &[u8]) -> Result<Passed, &'static str> {
        self.1.touch();
        match &mut *self.lock() {
            Sum::Body(sum) => {
                sum.update(bytes);
                let all = Passed { frames: bytes.len(), close: 0 };
                if sum.is_malformed() { Err("the body is no sequence of gRPC messages") } else { Ok(all) }
            }
            Sum::Frames(frames) => frames.take(bytes),
        }
    }

    pub fn so_far(&self) -> BodySum {
        match &*self.lock() {
            Sum::Body(sum) => sum.so_far(),
            Sum::Frames(frames) => frames.sum(),
        }
    }

    /// Whole messages so far, if it is a sequence of them.
    pub fn messages(&self) -> Option<u64> {
        match &*self.lock() {
            Sum::Body(_) => None,
            Sum::Frames(frames) => Some(frames.messages()),
        }
    }

    /// Whether frames are over: behind the Close frame.
    pub fn is_closed(&self) -> bool {
        match &*self.lock() {
            Sum::Body(_) => false,
            Sum::Frames(frames) => frames.is_closed(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sum> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
