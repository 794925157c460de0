//! Counters, gauges and latency histograms, rendered as JSON for the control process.
//!
//! Owns: the numbers. Does not own: the exposition format (the control process serves it).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS_S: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// A cumulative histogram of durations.
#[derive(Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_S.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        if let Some(index) = BUCKETS_S.iter().position(|bound| seconds <= *bound) {
            self.buckets[index].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn sample(&self, labels: &Value) -> Value {
        let mut running = 0;
        let buckets: Vec<Value> = BUCKETS_S
            .iter()
            .zip(&self.buckets)
            .map(|(bound, count)| {
                running += count.load(Ordering::Relaxed);
                json!([bound, running])
            })
            .collect();
        let sum = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        json!({"labels": labels, "buckets": buckets, "sum": sum, "count": self.count.load(Ordering::Relaxed)})
    }
}

/// A number that goes up and down with the guards that hold it.
#[derive(Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn add(&self, change: i64) {
        self.0.fetch_add(change, Ordering::Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Everything that is counted.
#[derive(Default)]
pub struct Stats {
    calls: Mutex<BTreeMap<(&'static str, String), u64>>,
    calls_without_custody: Mutex<BTreeMap<(&'static str, String), u64>>,
    connections_refused: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    connections_cut: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    log_detail: Mutex<String>,
    pub call_out: Histogram,
    pub call_in: Histogram,
    pub log_write: Histogram,
    pub log_entries: AtomicU64,
    pub log_seals: AtomicU64,
    pub log_bytes: AtomicU64,
    pub log_failures: AtomicU64,
    pub calls_in_progress: Gauge,
    /// Those of them that our own components made.
    pub calls_out_in_progress: Gauge,
    pub out_connections: Gauge,
    pub peer_connections: Gauge,
    pub pool_connections: Gauge,
    pub handshakes_waiting: Gauge,
    /// To external services.
    pub web_connections: Gauge,
    pub tunnels: Gauge,
}

impl Stats {
    /// Counts one call that ended; `code` is `ok` or the refusal's.
    pub fn count_call(&self, direction: &'static str, code: &str, took: Duration) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls.entry((direction, code.to_owned())).or_default() += 1;
        drop(calls);
        if direction == "out" { self.call_out.observe(took) } else { self.call_in.observe(took) }
    }

    /// Counts one call without custody that ended, by who was at the other end.
    pub fn count_without_custody(&self, kind: &'static str, code: &str) {
        let mut calls = self.calls_without_custody.lock().unwrap_or_else(PoisonError::into_inner);
        *calls.entry((kind, code.to_owned())).or_default() += 1;
    }

    /// Counts one connection that was closed before it carried a request.
    pub fn count_refused_connection(&self, socket: &'static str, why: &'static str) {
        let mut refused = self.connections_refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry((socket, why)).or_default() += 1;
    }

    /// Counts one connection that was cut while it was in use.
    pub fn count_cut_connection(&self, socket: &'static str, why: &'static str) {
        let mut cut = self.connections_cut.lock().unwrap_or_else(PoisonError::into_inner);
        *cut.entry((socket, why)).or_default() += 1;
    }

    /// Why the log failed last; empty while it works.
    pub fn log_detail(&self) -> String {
        self.log_detail.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_log_detail(&self, detail: &str) {
        detail.clone_into(&mut self.log_detail.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The metrics as the control process exports them; `counters` and `gauges` are values held elsewhere.
    pub fn metrics(&self, counters: &[(&str, &str, u64)], gauges: &[(&str, &str, f64)]) -> Vec<Value> {
        let mut metrics = vec![
            metric(
                "calls",
                "counter",
                "Brokered calls by direction and outcome.",
                samples(&self.calls, ["direction", "code"]),
            ),
            metric(
                "connections_refused",
                "counter",
                "Connections closed before a request.",
                samples(&self.connections_refused, ["socket", "why"]),
            ),
            metric(
                "connections_cut",
                "counter",
                "Connections cut while in use.",
                samples(&self.connections_cut, ["socket", "why"]),
            ),
            metric(
                "calls_without_custody",
                "counter",
                "Those of the calls whose other end knows nothing of custody, by kind and outcome.",
                samples(&self.calls_without_custody, ["kind", "code"]),
            ),
            metric(
                "call_seconds",
                "histogram",
                "Time from request to end of response.",
                vec![
                    self.call_out.sample(&json!({"direction": "out"})),
                    self.call_in.sample(&json!({"direction": "in"})),
                ],
            ),
            metric("log_write_seconds", "histogram", "Durable log writes.", vec![self.log_write.sample(&json!({}))]),
        ];
        for (name, help, value) in [
            ("log_entries", "Entries written to the custody log.", &self.log_entries),
            ("log_seals", "Seals made, each over one batch.", &self.log_seals),
            ("log_bytes", "Bytes written to the custody log.", &self.log_bytes),
            ("log_failures", "Writes to the custody log that failed.", &self.log_failures),
        ] {
            metrics.push(metric(name, "counter", help, vec![plain(value.load(Ordering::Relaxed) as f64)]));
        }
        for (name, help, value) in counters {
            metrics.push(metric(name, "counter", help, vec![plain(*value as f64)]));
        }
        for (name, help, gauge) in [
            ("calls_in_progress", "Calls under way.", &self.calls_in_progress),
            ("out_connections", "Connections of local components.", &self.out_connections),
            ("peer_connections", "Inbound mTLS connections.", &self.peer_connections),
            ("pool_connections", "Outbound mTLS connections.", &self.pool_connections),
            ("handshakes_waiting", "Handshakes of peers that wait for their turn.", &self.handshakes_waiting),
            ("web_connections", "TLS connections to external services.", &self.web_connections),
            ("tunnels", "Tunnels that are open.", &self.tunnels),
        ] {
            metrics.push(metric(name, "gauge", help, vec![plain(gauge.get() as f64)]));
        }
        metrics.extend(gauges.iter().map(|(name, help, value)| metric(name, "gauge", help, vec![plain(*value)])));
        metrics
    }
}

fn samples<B: AsRef<str>>(counted: &Mutex<BTreeMap<(&'static str, B), u64>>, [one, other]: [&str; 2]) -> Vec<Value> {
    let counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
    let sample = |((first, second), count): (&(&str, B), &u64)| json!({"labels": {one: first, other: second.as_ref()}, "value": *count as f64});
    counted.iter().map(sample).collect()
}

pub fn metric(name: &str, kind: &str, help: &str, samples: Vec<Value>) -> Value {
    json!({"name": format!("hopseal_broker_{name}"), "type": kind, "help": help, "samples": samples})
}

fn plain(value: f64) -> Value {
    json!({"labels": {}, "value": value})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_buckets_are_cumulative() {
        let histogram = Histogram::default();
        for ms in [1, 2, 100_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let sample = histogram.sample(&json!({}));
        assert_eq!(sample["buckets"][1], json!([0.001, 1]));
        assert_eq!(sample["buckets"][2], json!([0.0025, 2]));
        assert_eq!(sample["buckets"][13], json!([60.0, 2]));
        assert_eq!(sample["count"], 3);
    }
}
