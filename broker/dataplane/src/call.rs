//! What is told about a call when it has ended: one event, one count.
//!
//! Owns: that every call is told of exactly once, however it ends. Does not own: the custody log.

use std::sync::Arc;
use std::time::Instant;

use hopseal_custody::ids::SpiffeId;
use http::StatusCode;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::activity::Busy;
use crate::events::Events;
use crate::judge::revoked;
use crate::open_calls::{Entered, Open};
use crate::open_streams::Pulse;
use crate::operation::Operation;
use crate::places::{Place, Places};
use crate::policy::Question;
use crate::problem::Refusal;
use crate::reply::BodyFailed;
use crate::stats::Stats;

/// Whether the other end of a call knows custody, and if not, what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Custody {
    Full,
    /// A SPIFFE peer that is called.
    Peer,
    External,
    Tunnel,
    /// A SPIFFE peer that calls.
    Caller,
}

impl Custody {
    /// The kind of a call without custody.
    fn kind(self) -> Option<&'static str> {
        match self {
            Self::Full => None,
            Self::Peer => Some("peer"),
            Self::External => Some("external"),
            Self::Tunnel => Some("tunnel"),
            Self::Caller => Some("caller"),
        }
    }
}

/// Calls that an identity may always have in progress, if there are places at all.
const FEWEST_CALLS: usize = 2;

/// Facts about one call, filled in as they become known; told when dropped.
pub struct CallRecord {
    pub caller: Option<String>,
    pub callee: Option<String>,
    pub operation: Option<String>,
    pub args_hash: Option<String>,
    /// The A2A context that a message belongs to.
    pub a2a_context: Option<String>,
    pub cid: Option<String>,
    pub hop: Option<i64>,
    /// Cedar policies that decided.
    pub policy: Vec<String>,
    pub custody: Custody,
    /// Id of the decision.
    pub decision: Option<String>,
    /// Sets that only observe and would have denied the call, each with why.
    pub would_deny: Vec<(String, String)>,
    /// What was asked, if it was denied.
    pub question: Option<Arc<Open>>,
    /// The call's place among those that are judged again.
    watched: Option<Entered>,
    direction: &'static str,
    started: Instant,
    status: Option<u16>,
    code: String,
    detail: Option<String>,
    complete: bool,
    /// Whether this process tells of it.
    is_told: bool,
    /// The call's share of the bound on calls in progress.
    place: Option<OwnedSemaphorePermit>,
    /// And of the calling peer's part of it.
    part: Option<Place<SpiffeId>>,
    /// Keeps the connection from counting as unused.
    pub busy: Option<Busy>,
    pulse: Option<Arc<Pulse>>,
    /// Ends what the call still reads when it is over.
    over: Option<DropGuard>,
    events: Arc<Events>,
    stats: Arc<Stats>,
}

/// The event of a call that has ended; nothing about it is left out, so that a reader need not know what can be.
#[derive(Serialize)]
struct Ended<'a> {
    event: &'static str,
    direction: &'static str,
    caller: Option<&'a str>,
    callee: Option<&'a str>,
    operation: Option<&'a str>,
    args_hash: Option<&'a str>,
    a2a_context: Option<&'a str>,
    cid: Option<&'a str>,
    hop: Option<i64>,
    status: Option<u16>,
    code: &'a str,
    detail: Option<&'a str>,
    policy: &'a [String],
    custody: &'static str,
    kind: Option<&'static str>,
    decision: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    would_deny: Vec<String>,
    /// All that was asked, where somebody may want to know why.
    #[serde(skip_serializing_if = "Option::is_none")]
    question: Option<&'a Question>,
    complete: bool,
    duration_us: u64,
}

impl CallRecord {
    /// A call that begins now; `direction` is `out` or `in`.
    pub fn begin(direction: &'static str, events: &Arc<Events>, stats: &Arc<Stats>) -> Self {
        stats.calls_in_progress.add(1);
        if direction == "out" {
            stats.calls_out_in_progress.add(1);
        }
        Self {
            caller: None,
            callee: None,
            operation: None,
            args_hash: None,
            a2a_context: None,
            cid: None,
            hop: None,
            policy: Vec::new(),
            custody: Custody::Full,
            decision: None,
            would_deny: Vec::new(),
            question: None,
            watched: None,
            direction,
            started: Instant::now(),
            status: None,
            code: "cancelled".to_owned(),
            detail: None,
            complete: false,
            is_told: true,
            place: None,
            part: None,
            pulse: None,
            over: None,
            busy: None,
            events: Arc::clone(events),
            stats: Arc::clone(stats),
        }
    }

    /// What is asked for is known.
    pub fn asks(&mut self, operation: &Operation) {
        self.operation = Some(operation.name.clone());
        self.args_hash = operation.args_hash.map(|hash| hash.to_string());
        self.a2a_context.clone_from(&operation.context_id);
    }

    /// Takes a place among the calls in progress, until the last byte of the answer.
    ///
    /// # Errors
    /// `overloaded`.
    pub fn occupy(&mut self, places: &Arc<Semaphore>) -> Result<(), Refusal> {
        let place = Arc::clone(places).try_acquire_owned();
        self.place = Some(place.map_err(|_| Refusal::new("overloaded", "too many calls in progress"))?);
        Ok(())
    }

    /// Takes one of the places that an identity may have: as many as it leaves free of all, and at least a few.
    ///
    /// # Errors
    /// `overloaded`.
    pub fn occupy_part(
        &mut self,
        all: &Semaphore,
        places: &Places<SpiffeId>,
        identity: &SpiffeId,
    ) -> Result<(), Refusal> {
        let place = places.take_of(identity.clone(), all.available_permits().max(FEWEST_CALLS));
        self.part = Some(place.ok_or_else(|| Refusal::new("overloaded", "too many calls of this one in progress"))?);
        Ok(())
    }

    /// Cancelled when the call is over, however it ends.
    pub fn over(&mut self) -> CancellationToken {
        let over = CancellationToken::new();
        self.over = Some(over.clone().drop_guard());
        over
    }

    /// Another process answers it, and tells of it.
    pub fn pass_on(&mut self) {
        self.is_told = false;
    }

    /// The call is judged again from now on, until it is over.
    pub fn watch(&mut self, entered: Entered) {
        self.watched = Some(entered);
    }

    /// Resolves when the call is no longer allowed; never for one that nobody decided.
    pub fn until_revoked(&self) -> impl Future<Output = Refusal> + Send + use<> {
        let open = self.watched.as_ref().map(|entered| Arc::clone(&entered.open));
        async move {
            let Some(open) = open else { return std::future::pending().await };
            open.revoked.cancelled().await;
            revoked(&open)
        }
    }

    /// When something last passed, for those of its bodies that stream.
    pub fn pulse(&mut self) -> Arc<Pulse> {
        Arc::clone(self.pulse.get_or_insert_default())
    }

    /// Cancelled when the call is no longer allowed.
    pub fn revocation(&self) -> Option<CancellationToken> {
        self.watched.as_ref().map(|entered| entered.open.revoked.clone())
    }

    /// The head of the answer is known; the body may still stream.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = Some(status.as_u16());
        "ok".clone_into(&mut self.code);
    }

    /// The call was refused.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.status = Some(refusal.status.as_u16());
        self.code = refusal.code.clone().into_owned();
        self.detail = Some(refusal.detail.clone());
        if refusal.decision.is_some() {
            self.decision.clone_from(&refusal.decision);
        }
    }

    /// What came was no request: its head did not parse, or did not end in time.
    pub fn never_began(mut self, code: &'static str, error: Option<&hyper::Error>) {
        let mut refusal = Refusal::new(code, error.map_or_else(|| "it did not end".to_owned(), ToString::to_string));
        if let Some(source) = error.and_then(std::error::Error::source) {
            refusal.detail = format!("{}: {source}", refusal.detail);
        }
        self.refused(&refusal);
        self.complete();
    }

    /// The answer broke off after its head.
    pub fn broke_off(&mut self, failed: &BodyFailed) {
        self.code = failed.code.clone().into_owned();
        self.detail = Some(failed.detail.clone());
    }

    /// The last byte of the answer has passed.
    pub fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        self.stats.calls_in_progress.add(-1);
        if self.direction == "out" {
            self.stats.calls_out_in_progress.add(-1);
        }
        if !self.is_told {
            return;
        }
        self.stats.count_call(self.direction, &self.code, took);
        let without = self.custody.kind();
        if let Some(kind) = without {
            self.stats.count_without_custody(kind, &self.code);
        }
        let asked = self.question.as_ref().or(self.watched.as_ref().map(|entered| &entered.open));
        let is_told = self.code != "ok" || !self.would_deny.is_empty();
        let question = asked.filter(|_| is_told).map(|open| &open.question);
        let would_deny: Vec<String> = self.would_deny.iter().map(|(set, why)| format!("{set}: {why}")).collect();
        let event = Ended {
            event: "call",
            direction: self.direction,
            caller: self.caller.as_deref(),
            callee: self.callee.as_deref(),
            operation: self.operation.as_deref(),
            args_hash: self.args_hash.as_deref(),
            a2a_context: self.a2a_context.as_deref(),
            cid: self.cid.as_deref(),
            hop: self.hop,
            status: self.status,
            code: &self.code,
            detail: self.detail.as_deref(),
            policy: &self.policy,
            custody: if without.is_some() { "none" } else { "full" },
            kind: without,
            decision: self.decision.as_deref(),
            would_deny,
            question,
            complete: self.complete,
            duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        };
        self.events.push_call(&event);
    }
}
