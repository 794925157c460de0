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
    Body(BodySummer, Option<Start>),
    Frames(FrameReader),
}

/// How a body of gRPC begins, as far as that is looked at.
type Start = Vec<u8>;

impl Passing {
    /// Of the body behind this head.
    pub fn behind(list: &HeaderMap, pulse: Arc<Pulse>) -> Self {
        Self(Arc::new(Mutex::new(Sum::Body(grpc::summer_of(list), grpc::is_grpc(list).then(Start::new)))), pulse)
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
            Sum::Body(sum, start) => {
                sum.update(bytes);
                let all = Passed { frames: bytes.len(), close: 0 };
                if sum.is_malformed() || start.as_mut().is_some_and(|start| is_other(start, bytes)) {
                    Err("the body is no sequence of gRPC messages")
                } else {
                    Ok(all)
                }
            }
            Sum::Frames(frames) => frames.take(bytes),
        }
    }

    pub fn so_far(&self) -> BodySum {
        match &*self.lock() {
            Sum::Body(sum, _) => sum.so_far(),
            Sum::Frames(frames) => frames.sum(),
        }
    }

    /// Whole messages so far, if it is a sequence of them.
    pub fn messages(&self) -> Option<u64> {
        match &*self.lock() {
            Sum::Body(..) => None,
            Sum::Frames(frames) => Some(frames.messages()),
        }
    }

    /// Whether frames are over: behind the Close frame.
    pub fn is_closed(&self) -> bool {
        match &*self.lock() {
            Sum::Body(..) => false,
            Sum::Frames(frames) => frames.is_closed(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sum> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the body that goes on with `bytes` is JSON as well, which the component may take it for.
fn is_other(start: &mut Start, bytes: &[u8]) -> bool {
    let missing = grpc::START_BYTES - start.len();
    start.extend(bytes.iter().take(missing));
    missing > 0 && grpc::is_wide_json(start)
}
