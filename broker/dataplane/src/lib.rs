//! Hopseal's data plane: moves the bytes of calls between components, sealed and logged.
//!
//! Owns: `out.sock`, the peer port, connections, policy decisions and the custody log of one node.
//! Does not own: who is who (the attestor), what is configured (the broker's control process), the
//! wire format (crate `hopseal_custody`). Python meets it in `binding` only; `log` and `policy` are public for their
//! benchmarks.

mod activity;
mod admission;
mod answers;
mod awaited;
mod binding;
mod body;
mod boundary;
mod bounds;
mod breaker;
mod broker;
mod call;
mod callers;
mod clock;
mod component;
mod connector;
mod decisions;
mod deliver;
mod descriptors;
mod directory;
mod events;
mod executor;
mod gathered;
mod grpc;
mod h1_stream;
mod h2_stream;
mod handles;
mod handshakes;
mod headers;
mod in_force;
mod inbound;
mod instance;
mod jsonrpc;
mod judge;
mod kept_connections;
mod lifetime;
mod listeners;
pub mod log;
mod logged_bundles;
mod open_calls;
mod open_streams;
mod opened;
mod operation;
mod outbound;
mod outgoing;
mod outside;
mod own_records;
mod passing;
mod path;
mod pidfd;
mod places;
pub mod policy;
mod policy_binding;
mod pool;
mod preface;
mod problem;
mod receive;
mod relay;
mod reply;
mod requests;
mod retries;
mod runtime;
mod segments;
mod send;
mod server;
mod settings;
mod socket;
mod sse;
mod stats;
mod task;
mod terms;
mod throttle;
mod tls;
mod trust;
mod tunnel;
mod unix_server;
mod upload;
mod users;
mod verdict;
mod verified;
mod views;
mod vouched;
mod voucher;
mod websocket;
mod windows;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
