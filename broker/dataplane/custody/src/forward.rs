//! The Custody fields of an outgoing request.
//!
//! Owns: which ancestors and certificates go along, and their sizes. Does not own: what a peer
//! has acknowledged (see `acknowledged`).

use crate::acknowledged::Acknowledged;
use crate::cache::VerifiedStatement;
use crate::cert::Certificate;
use crate::chain::Chain;
use crate::error::{Code, Rejection, Result};
use crate::fields::{CERTS, CHAIN, RECORD};
use crate::hash::{Thumbprint, encode_base64};
use crate::limits::{
    MAX_CERT_DER_BYTES, MAX_CERTS, MAX_CERTS_BYTES, MAX_CHAIN_BYTES, MAX_FIELDS_BYTES, MAX_HOPS, MAX_SEALED_BYTES,
};

/// Values of `Custody-Chain` and `Custody-Certs` for the next hop; None = the field is not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardedFields {
    pub chain: Option<String>,
    pub certs: Option<String>,
}

impl ForwardedFields {
    /// The fields that go with a record that continues `parent`; at most `hops` records with it.
    ///
    /// The own leaf is not among the certificates: the next hop sees it in TLS.
    ///
    /// # Errors
    /// `too_long` or `too_large` if the next hop would have to refuse them.
    pub fn build(parent: &Chain, hops: usize) -> Result<Self> {
        Self::of(parent, hops, |_| false, |_| false)
    }

    /// As [`ForwardedFields::build`], without what the peer with the leaf `peer` has acknowledged.
    ///
    /// Of the ancestors only the oldest are left out (custody-wire §5.6): the receiver puts known ones in front.
    ///
    /// # Errors
    /// As [`ForwardedFields::build`].
    pub fn build_for(peer: &Thumbprint, acknowledged: &Acknowledged, parent: &Chain, hops: usize) -> Result<Self> {
        let holds_statement = |statement: &VerifiedStatement| acknowledged.holds_statement(peer, statement);
        let holds_certificate = |certificate: &Certificate| acknowledged.holds_certificate(peer, certificate);
        Self::of(parent, hops, holds_statement, holds_certificate)
    }

    fn of(
        parent: &Chain,
        hops: usize,
        holds_statement: impl Fn(&VerifiedStatement) -> bool,
        holds_certificate: impl Fn(&Certificate) -> bool,
    ) -> Result<Self> {
        let count = parent.ancestors().len() + 2;
        if count > hops.min(MAX_HOPS) {
            return Err(Rejection::new(Code::TooLong, "the chain would have too many records"));
        }
        let statements: Vec<&VerifiedStatement> =
            parent.statements().map(AsRef::as_ref).skip_while(|statement| holds_statement(statement)).collect();
        let chain = statements.iter().map(|statement| statement.sealed()).collect::<Vec<_>>().join(", ");
        let certs = certificate_list(&statements, holds_certificate)?;
        if chain.len() > MAX_CHAIN_BYTES || certs.len() > MAX_CERTS_BYTES {
            return Err(Rejection::new(Code::TooLarge, "the chain would be too large"));
        }
        let present = |value: String| (!value.is_empty()).then_some(value);
        Ok(Self { chain: present(chain), certs: present(certs) })
    }

    /// Nothing if these fields and the sealed record fit into one request.
    ///
    /// # Errors
    /// `too_large`.
    pub fn check_with_record(&self, sealed: &str) -> Result<()> {
        let field = |name: &str, value: Option<&String>| value.map_or(0, |value| name.len() + value.len());
        let total = RECORD.len() + sealed.len() + field(CHAIN, self.chain.as_ref()) + field(CERTS, self.certs.as_ref());
        if sealed.len() > MAX_SEALED_BYTES || total > MAX_FIELDS_BYTES {
            return Err(Rejection::new(Code::TooLarge, "the Custody fields would be too large"));
        }
        Ok(())
    }
}

fn certificate_list(statements: &[&VerifiedStatement], is_held: impl Fn(&Certificate) -> bool) -> Result<String> {
    let mut listed: Vec<Thumbprint> = Vec::new();
    let mut elements: Vec<String> = Vec::new();
    for certificate in statements.iter().flat_map(|statement| statement.certificates()) {
        if listed.contains(&certificate.thumbprint()) || is_held(certificate) {
            continue;
        }
        if certificate.der().len() > MAX_CERT_DER_BYTES || listed.len() >= MAX_CERTS {
            return Err(Rejection::new(Code::TooLarge, "the chain would bring too many or too large certificates"));
        }
        listed.push(certificate.thumbprint());
        elements.push(format!(":{}:", encode_base64(certificate.der())));
    }
    Ok(elements.join(", "))
}
