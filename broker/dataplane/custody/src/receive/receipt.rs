//! The caller's checks of a receipt (custody-wire §7.1).
//!
//! Their order is that of §6: what costs no signature comes first.

use std::cmp::Ordering;
use std::sync::Arc;

use super::examine::{collect_certificates, peer_name};
use super::prove::Prover;
use super::signer::signer_of;
use super::{Inline, Peer, Receiver};
use crate::binding::{BodySum, HeaderLine, response_binding};
use crate::cache::{Caches, VerifiedStatement};
use crate::error::{Code, Rejection, Result};
use crate::fields::ReceiptFields;
use crate::hash::{RandomId, StatementHash};
use crate::ids::SpiffeId;
use crate::limits::MAX_SKEW_S;
use crate::outcome::{Fin, Outcome, Taken};
use crate::receipt::Receipt;
use crate::seal::UnverifiedStatement;
use crate::statement::StatementClaims as _;
use crate::trust::Bundles;

/// One exchange as its caller saw it: the request that was sent, and what came back for it.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// The caller: `iss` of the request's record.
    pub own_id: &'a SpiffeId,
    /// The callee: `aud` of the request's record.
    pub callee: &'a str,
    /// Statement hash of the request's record.
    pub record: StatementHash,
    /// `iat` of the request's record.
    pub record_iat: i64,
    pub cid: RandomId,
    /// The server as TLS showed it on the connection of this exchange.
    pub peer: Option<&'a Peer>,
    pub status: u16,
    /// Every field line of the response head as it came from the wire.
    pub headers: &'a [HeaderLine<'a>],
    /// All bytes of the body on the wire, without a final receipt comment.
    pub body: BodySum,
    /// What was sent of the request until now, if it streams.
    pub request: Option<BodySum>,
}

impl Receiver {
    /// The proven receipt of one exchange: every caller check of custody-wire §7.1.
    ///
    /// `fields` are those of the response, read when its body has ended. A receipt with `fin: abort` or `deny`
    /// is a true receipt: what it means for the call is the caller's to decide.
    ///
    /// # Errors
    /// The code of the first check that fails.
    pub fn verify_receipt(
        &self,
        fields: &ReceiptFields<'_>,
        exchange: &Exchange<'_>,
        bundles: &Bundles,
        now: i64,
    ) -> Result<Arc<VerifiedStatement<Receipt>>> {
        verify(&self.caches, fields, exchange, bundles, now)
    }
}

fn verify(
    caches: &Caches,
    fields: &ReceiptFields<'_>,
    exchange: &Exchange<'_>,
    bundles: &Bundles,
    now: i64,
) -> Result<Arc<VerifiedStatement<Receipt>>> {
    // 3
    let statement = UnverifiedStatement::parse(fields.receipt)?;
    let claims = Receipt::parse(statement.claims())?;
    let ders = fields.certificates()?;
    // 4, 6
    let peer_name = peer_name(exchange.peer);
    let known = collect_certificates(caches, exchange.peer, &ders, &peer_name);
    let leaf = signer_of(caches, statement.seal().x5t, exchange.peer, &known)?;
    check_parties(&claims.outcome, exchange)?;
    // 8
    check_time(claims.outcome.iat, exchange.record_iat, now)?;
    // 9
    check_binding(&claims.outcome, exchange)?;
    // 11
    if claims.outcome.rec != exchange.record || claims.outcome.cid != exchange.cid {
        return Err(Rejection::new(Code::Chain, "the receipt is for another request"));
    }
    // 5
    if bundles.is_empty() {
        return Err(Rejection::new(Code::Unavailable, "no bundle is known"));
    }
    let certificates: Vec<_> = known.into_values().collect();
    let prover = Prover { caches, bundles, certificates: &certificates, peer: &peer_name };
    prover.check(Inline { statement, claims, leaf }, now)
}

fn check_parties(outcome: &Outcome, exchange: &Exchange<'_>) -> Result<()> {
    if outcome.iss.as_str() != exchange.callee {
        return Err(Rejection::new(Code::Identity, "the receipt is by another component than the callee"));
    }
    if outcome.aud != *exchange.own_id {
        return Err(Rejection::new(Code::Audience, "the receipt is for another component"));
    }
    Ok(())
}

/// Nothing if a statement about a record of `record_iat` can have been made at `iat`.
pub(super) fn check_time(iat: i64, record_iat: i64, now: i64) -> Result<()> {
    if iat < record_iat - MAX_SKEW_S || iat > now + MAX_SKEW_S {
        return Err(Rejection::new(Code::Expired, "the statement was made before its record or in the future"));
    }
    Ok(())
}

fn check_binding(outcome: &Outcome, exchange: &Exchange<'_>) -> Result<()> {
    let refuse = |detail: &str| Err(Rejection::new(Code::Binding, detail));
    if outcome.st != exchange.status || outcome.rsb != response_binding(exchange.status, exchange.headers)? {
        return refuse("the receipt is for another response head");
    }
    if outcome.sum() != exchange.body {
        return refuse("the receipt is for another body");
    }
    let Some(taken) = outcome.req else { return Ok(()) };
    let fits = exchange.request.is_some_and(|sent| match taken.len.cmp(&sent.len) {
        Ordering::Less => outcome.fin != Fin::Eof,
        Ordering::Equal => taken == Taken::of(&sent),
        Ordering::Greater => false,
    });
    if fits { Ok(()) } else { refuse("the receipt is for another streamed request") }
}
