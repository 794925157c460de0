//! The five types of statement (custody-wire §4.2): one is never accepted for another.
//!
//! Owns: what all have in common, and reading one whose type is not known before.

use crate::claims::Claims;
use crate::closing::Closing;
use crate::error::{Result, malformed};
use crate::evidence::Evidence;
use crate::ids::SpiffeId;
use crate::json::{Value, parse_object};
use crate::observation::Observation;
use crate::receipt::Receipt;
use crate::record::Record;

/// Version of the wire format.
const VERSION: i64 = 1;

/// Claims of one type of statement.
pub trait StatementClaims: Sized {
    /// The `t` member.
    const TYPE: &'static str;

    /// The claims in the bytes of a payload.
    ///
    /// # Errors
    /// `malformed`: not strict JSON, another type or version, a mandatory claim absent, a claim of another type
    /// or form. Unknown top-level claims are ignored.
    fn parse(payload: &[u8]) -> Result<Self>;

    /// Who says it: byte-equal to the name in the leaf that seals.
    fn iss(&self) -> &SpiffeId;
}

/// A statement of any type, parsed and not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    Record(Box<Record>),
    Receipt(Receipt),
    Observation(Observation),
    Closing(Closing),
    Evidence(Evidence),
}

impl Statement {
    /// The statement in the bytes of a payload, whichever its type.
    ///
    /// # Errors
    /// `malformed`.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        let members = parse_object(payload).map_err(malformed)?;
        match Claims(&members).text("t")? {
            Some(Record::TYPE) => Record::parse(payload).map(|record| Self::Record(Box::new(record))),
            Some(Receipt::TYPE) => Receipt::parse(payload).map(Self::Receipt),
            Some(Observation::TYPE) => Observation::parse(payload).map(Self::Observation),
            Some(Closing::TYPE) => Closing::parse(payload).map(Self::Closing),
            Some(Evidence::TYPE) => Evidence::parse(payload).map(Self::Evidence),
            _ => Err(malformed("the statement has no known type")),
        }
    }

    /// The known claims in the order in which they are written.
    #[must_use]
    pub fn to_members(&self) -> Vec<(String, Value)> {
        match self {
            Self::Record(record) => record.to_members(),
            Self::Receipt(receipt) => receipt.to_members(),
            Self::Observation(observation) => observation.to_members(),
            Self::Closing(closing) => closing.to_members(),
            Self::Evidence(evidence) => evidence.to_members(),
        }
    }

    /// The `t` member.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Record(_) => Record::TYPE,
            Self::Receipt(_) => Receipt::TYPE,
            Self::Observation(_) => Observation::TYPE,
            Self::Closing(_) => Closing::TYPE,
            Self::Evidence(_) => Evidence::TYPE,
        }
    }
}

/// The members of a payload whose type must be `kind`.
pub(crate) fn read_members(payload: &[u8], kind: &str) -> Result<Vec<(String, Value)>> {
    let members = parse_object(payload).map_err(malformed)?;
    let claims = Claims(&members);
    if claims.integer("v")? != Some(VERSION) || claims.text("t")? != Some(kind) {
        return Err(malformed(format!("the statement is not a {kind} of version {VERSION}")));
    }
    Ok(members)
}
