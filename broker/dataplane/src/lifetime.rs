//! How long a connection between brokers may live.
//!
//! Owns: closing it at once when a key is withdrawn, a certificate expires or the peer's authority
//! is no longer trusted, and letting it finish when a newer leaf takes over or the broker drains.
//! Does not own: deciding any of that.
//!
//! Source: runtime.md "When something goes away"; threats.md (SPIRE #6715).

use std::sync::Arc;
use std::time::Duration;

use hopseal_custody::trust::Bundles;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::instance::Leaf;
use crate::trust::{PeerChain, Trust};

/// Longest sleep between looks at the wall clock: the monotonic clock stands still in a suspend.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Shutdown of the whole data plane.
#[derive(Clone, Default)]
pub struct Shutdown {
    /// Finish what components began and take nothing new from them.
    pub drain: CancellationToken,
    /// Finish what peers began and take nothing new from them; after `drain`, because a component's call may
    /// go to another one here through our own peer port.
    pub drain_peers: CancellationToken,
    /// Another process has the sockets: take no new connections, and end those there are as they fall idle.
    pub hand_over: CancellationToken,
    /// Close at once.
    pub stop: CancellationToken,
}

/// The reasons that end one mTLS connection.
pub struct Lifetime {
    leaf: Arc<Leaf>,
    peer: PeerChain,
    bundles: watch::Receiver<Arc<Bundles>>,
    shutdown: Shutdown,
    closes_at: i64,
}

impl Lifetime {
    pub fn new(leaf: Arc<Leaf>, peer: PeerChain, trust: &Trust, shutdown: Shutdown) -> Self {
        let ends = peer.certificates.iter().map(|certificate| certificate.not_after());
        let closes_at = ends.fold(leaf.ends_at, i64::min);
        Self { leaf, peer, bundles: trust.subscribe(), shutdown, closes_at }
    }

    /// Resolves when the connection must close at once; says why.
    pub async fn must_close(&mut self) -> &'static str {
        // The bundles may have changed between the handshake's check and the subscription.
        loop {
            let now = clock::now_s();
            if now > self.closes_at {
                return "expired";
            }
            let bundles = Arc::clone(&self.bundles.borrow_and_update());
            if self.peer.verify(&bundles, now).is_err() {
                return "untrusted";
            }
            let left = Duration::from_secs(u64::try_from(self.closes_at - now).unwrap_or(0) + 1);
            tokio::select! {
                () = self.leaf.closed.cancelled() => return "withdrawn",
                () = self.shutdown.stop.cancelled() => return "stopped",
                changed = self.bundles.changed() => if changed.is_err() { return "stopped" },
                () = tokio::time::sleep(left.min(LOOK_AGAIN)) => {}
            }
        }
    }

    /// Resolves when the connection should take no new requests.
    pub fn should_finish(&self) -> impl Future<Output = ()> + use<> {
        let (retired, drain) = (self.leaf.retired.clone(), self.shutdown.drain_peers.clone());
        async move {
            tokio::select! {
                () = retired.cancelled() => {}
                () = drain.cancelled() => {}
            }
        }
    }
}
