//! File descriptors: how many this process may have, and how many of them connections may take.
//!
//! Owns: raising the soft limit to the hard one, and keeping half of all for what connections need behind
//! them: pidfds, connections to peers and components, the log. Without it a flood of connections would take
//! the descriptors that the calls of others need. Does not own: the bounds that are configured.
//!
//! Source: threats.md section 4 (descriptor exhaustion); ghostunnel's `accept-error-recovery` tests.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Connections on one listener, as a part of all descriptors.
const PART: u64 = 4;
/// Fewest connections that a listener takes however few descriptors there are.
const FEWEST: u64 = 16;

/// Raises the soft limit as far as it goes.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // What cannot be raised is kept in mind by `connections`.
        let _as_far_as_allowed = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// How many of the `wanted` connections one listener may take.
pub fn connections(wanted: usize) -> usize {
    within(wanted, getrlimit(Resource::Nofile).current)
}

fn within(wanted: usize, descriptors: Option<u64>) -> usize {
    let most = descriptors.map_or(u64::MAX, |all| (all / PART).max(FEWEST));
    wanted.min(usize::try_from(most).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_half_of_the_descriptors_to_the_rest() {
        assert_eq!(within(4096, Some(65_536)), 4096);
        assert_eq!(within(4096, Some(1024)), 256);
        assert_eq!(within(4096, Some(20)), 16);
        assert_eq!(within(4096, None), 4096);
    }

    #[test]
    fn the_soft_limit_goes_up_to_the_hard_one() {
        raise_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
