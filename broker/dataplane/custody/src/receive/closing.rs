//! The callee's checks of a closing statement (custody-wire §7.3), in the order of §6.

use std::sync::Arc;

use super::examine::{collect_certificates, peer_name};
use super::prove::Prover;
use super::receipt::check_time;
use super::signer::signer_of;
use super::{Inline, Peer, Receiver};
use crate::binding::BodySum;
use crate::cache::{Caches, VerifiedStatement};
use crate::closing::Closing;
use crate::error::{Code, Rejection, Result};
use crate::fields::ClosingFields;
use crate::hash::StatementHash;
use crate::record::Record;
use crate::seal::UnverifiedStatement;
use crate::statement::StatementClaims as _;
use crate::trust::Bundles;

/// What a closing statement must fit: the accepted record, and the body that followed.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedClosing<'a> {
    /// The opening record, accepted before.
    pub record: &'a Record,
    /// Its statement hash.
    pub hash: StatementHash,
    /// The client as TLS showed it on the connection of the request.
    pub peer: Option<&'a Peer>,
    /// All bytes of the body on the wire.
    pub body: BodySum,
}

impl Receiver {
    /// The proven closing statement of a streamed request (custody-wire §7.3), read when its body has ended.
    ///
    /// # Errors
    /// The code of the first check that fails.
    pub fn verify_closing(
        &self,
        fields: &ClosingFields<'_>,
        expected: &ExpectedClosing<'_>,
        bundles: &Bundles,
        now: i64,
    ) -> Result<Arc<VerifiedStatement<Closing>>> {
        verify(&self.caches, fields, expected, bundles, now)
    }
}

fn verify(
    caches: &Caches,
    fields: &ClosingFields<'_>,
    expected: &ExpectedClosing<'_>,
    bundles: &Bundles,
    now: i64,
) -> Result<Arc<VerifiedStatement<Closing>>> {
    // 3
    let statement = UnverifiedStatement::parse(fields.closing)?;
    let claims = Closing::parse(statement.claims())?;
    let ders = fields.certificates()?;
    // 4, 6
    let peer_name = peer_name(expected.peer);
    let known = collect_certificates(caches, expected.peer, &ders, &peer_name);
    let leaf = signer_of(caches, statement.seal().x5t, expected.peer, &known)?;
    // 7 to 11
    check_claims(&claims, expected, now)?;
    // 5
    if bundles.is_empty() {
        return Err(Rejection::new(Code::Unavailable, "no bundle is known"));
    }
    let certificates: Vec<_> = known.into_values().collect();
    let prover = Prover { caches, bundles, certificates: &certificates, peer: &peer_name };
    prover.check(Inline { statement, claims, leaf }, now)
}

fn check_claims(claims: &Closing, expected: &ExpectedClosing<'_>, now: i64) -> Result<()> {
    let record = expected.record;
    if claims.iss != record.iss {
        return Err(Rejection::new(Code::Identity, "the closing statement is by another component than its record"));
    }
    if claims.aud.as_str() != record.aud {
        return Err(Rejection::new(Code::Audience, "the closing statement is for another component"));
    }
    check_time(claims.iat, record.iat, now)?;
    if claims.sum() != expected.body {
        return Err(Rejection::new(Code::Binding, "the closing statement is for another body"));
    }
    if claims.rec != expected.hash || claims.cid != record.cid {
        return Err(Rejection::new(Code::Chain, "the closing statement is for another request"));
    }
    Ok(())
}
