//! Parties that know nothing of custody: external services, SPIFFE peers that are not Hopseal, and their calls.
//!
//! Owns: reaching them as documents allow, what leaves and what does not, observations of what they answer, tunnels,
//! and accepting their calls. Does not own: which ones a component may reach (the documents), the decision (`judge`).
//!
//! Rules:
//! 1. A party is here only because a document names it so: who is documented with custody is never reached or
//!    accepted without.
//! 2. No Custody field, handle or user's token of the chain leaves; what comes back has none either.
//! 3. A call's record is durable before the request leaves, and the observation of the answer before its end passes.
//!
//! Source: custody-wire §7.1 (last item), §8.4 "Strip"; docs/egress.md.

mod accept;
mod address;
mod call;
mod compose;
mod connections;
mod described;
mod names;
mod observed;
mod plain;
mod roots;
mod send;
mod traffic;
mod tunnel;

pub use accept::{accept, is_unrecorded, log_refused};
pub use call::{Destination, call, destination};
pub use connections::WebConnections;
pub use described::{Described, Outside};
pub use names::Named;
pub use observed::ObservedBody;
pub use plain::PlainBody;
pub use roots::Roots;
pub use tunnel::open as open_tunnel;
