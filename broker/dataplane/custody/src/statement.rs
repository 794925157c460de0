//! The six types of statement (custody-wire §4.2): one is never accepted for another.
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
use crate::segment::Segment;

/// Version of the wire format.
const VERSION: i64 = 1;

/// Claims of one type of statement.
pub trait StatementClaims: Sized {
    /// The `t` member.
    const TYPE: &'static str;

    /// The claims in the members of a payload, whose type and version were checked.
    ///
    /// # Errors
    /// `malformed`: a mandatory claim absent, a claim of another type or form. Unknown members are ignored.
    fn from_members(members: &[(String, Value)]) -> Result<Self>;

    /// The claims in the bytes of a payload.
    ///
    /// # Errors
    /// As [`StatementClaims::from_members`]; `malformed` also if it is not strict JSON, or of another type or version.
    fn parse(payload: &[u8]) -> Result<Self> {
        let members = parse_object(payload).map_err(malformed)?;
        if kind_of(&members)? != Some(Self::TYPE) {
            return Err(malformed(format!("the statement is not a {}", Self::TYPE)));
        }
        Self::from_members(&members)
    }

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
    Segment(Segment),
}

impl Statement {
    /// The statement in the bytes of a payload, whichever its type.
    ///
    /// # Errors
    /// `malformed`.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        let members = parse_object(payload).map_err(malformed)?;
        match kind_of(&members)? {
            Some(Record::TYPE) => Record::from_members(&members).map(|record| Self::Record(Box::new(record))),
            Some(Receipt::TYPE) => Receipt::from_members(&members).map(Self::Receipt),
            Some(Observation::TYPE) => Observation::from_members(&members).map(Self::Observation),
            Some(Closing::TYPE) => Closing::from_members(&members).map(Self::Closing),
            Some(Evidence::TYPE) => Evidence::from_members(&members).map(Self::Evidence),
            Some(Segment::TYPE) => Segment::from_members(&members).map(Self::Segment),
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
            Self::Segment(segment) => segment.to_members(),
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
            Self::Segment(_) => Segment::TYPE,
        }
    }
}

/// The `t` of a statement of this version.
fn kind_of(members: &[(String, Value)]) -> Result<Option<&str>> {
    let claims = Claims(members);
    if claims.integer("v")? != Some(VERSION) {
        return Err(malformed("the statement is not of version 1"));
    }
    claims.text("t")
}
