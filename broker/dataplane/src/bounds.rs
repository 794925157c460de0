//! What may be held at once, and for how long.
//!
//! Owns: names, defaults and units of every bound. Does not own: the other settings (see `settings`).

use serde::Deserialize;

/// Bounds on what may be held at once.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub out_connections: usize,
    pub out_connections_per_uid: usize,
    pub peer_connections: usize,
    pub peer_connections_per_address: usize,
    pub peer_connections_per_identity: usize,
    /// Handshakes in progress at once, a quarter of them of one address.
    pub handshakes: usize,
    /// Handshakes that wait for their turn; beyond it connections are closed.
    pub handshake_queue: usize,
    /// HTTP/2 streams per peer connection.
    pub streams_per_connection: u32,
    /// Calls in progress at once, both directions together.
    pub calls: usize,
    /// Request bodies in memory at once, all calls together.
    pub buffered_bytes: usize,
    /// What HTTP/2 peers may send ahead of what is read, all connections with wide windows together.
    pub window_bytes: usize,
    /// Header list on the peer port (runtime.md "Between nodes").
    pub peer_header_bytes: u32,
    /// Header list on component sockets.
    pub component_header_bytes: usize,
    pub handles: usize,
    pub handles_per_instance: usize,
    /// At least peak calls per second times 80 s (custody-wire §12).
    pub replay_entries: usize,
    /// Entries waiting for the log writer.
    pub log_queue: usize,
    /// Events waiting for the control process; `call` events beyond it are counted and dropped.
    pub events: usize,
    /// Processes known as callers or listeners at once.
    pub processes: usize,
    /// Idle connections kept per component socket or HTTP/1.1 peer.
    pub idle_connections: usize,
    /// Failures in a row after which an endpoint is left alone.
    pub endpoint_failures: u32,
    /// Requests that are sent again, in percent of all to one callee.
    pub retry_percent: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            out_connections: 4096,
            out_connections_per_uid: 1024,
            peer_connections: 4096,
            peer_connections_per_address: 1024,
            peer_connections_per_identity: 1024,
            handshakes: 64,
            handshake_queue: 1024,
            streams_per_connection: 256,
            calls: 4096,
            buffered_bytes: 256 << 20,
            window_bytes: 128 << 20,
            peer_header_bytes: 48 << 10,
            component_header_bytes: 32 << 10,
            handles: 1 << 18,
            handles_per_instance: 1 << 14,
            replay_entries: 1 << 20,
            log_queue: 8192,
            events: 16384,
            processes: 8192,
            idle_connections: 64,
            endpoint_failures: 5,
            retry_percent: 20,
        }
    }
}

/// Deadlines, in milliseconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// A caller waits this long for the control process to admit or refuse it.
    pub caller_verdict: u64,
    /// A call waits this long for the control process to admit or refuse a listener.
    pub listener_verdict: u64,
    /// From accept, or the end of the request before, to the end of a request's headers.
    pub header_read: u64,
    /// From the headers to the end of the request body.
    pub body_read: u64,
    /// A connection without a request in progress is closed after this.
    pub idle: u64,
    /// TLS handshake, either side.
    pub handshake: u64,
    /// TCP or Unix connect.
    pub connect: u64,
    /// An endpoint that failed too often is left alone for so long at first.
    pub endpoint_open: u64,
    /// A call of a component, from the head of its request to the head of its answer, with every attempt.
    pub call: u64,
    /// From sending a request to the head of the response.
    pub response_head: u64,
    /// An answer that its reader takes nothing of for so long ends with its connection.
    pub answer_unread: u64,
    /// A call waits this long for its record to be durable.
    pub log_write: u64,
    /// An answer that streams, or a WebSocket, on which nothing passes for this long either way is cut.
    pub stream_idle: u64,
    /// And after this whatever passes.
    pub stream_lifetime: u64,
    /// In strict mode a call waits this long for witnesses; shorter than `log_write`, or that ends it.
    pub log_witness: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            caller_verdict: 5_000,
            listener_verdict: 2_000,
            header_read: 10_000,
            body_read: 30_000,
            idle: 60_000,
            handshake: 5_000,
            connect: 3_000,
            endpoint_open: 1_000,
            call: 660_000,
            response_head: 600_000,
            stream_idle: 300_000,
            stream_lifetime: 3_600_000,
            answer_unread: 60_000,
            log_write: 10_000,
            log_witness: 5_000,
        }
    }
}
