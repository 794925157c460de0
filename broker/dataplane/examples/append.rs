//! How fast the custody log takes entries, beside one durable write for each: one JSON line of figures.
//!
//! Usage: `append FOLDER IN_FLIGHT SECONDS`
//! Each of `IN_FLIGHT` tasks appends its next entry when the last one is durable (closed loop).
#![allow(clippy::print_stdout, reason = "its output is its result")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use _dataplane::log::store::LogFiles;
use _dataplane::log::{Beginning, Claims, Direction, Entry, Log, LogObserver, Patience};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// About what a root's sealed text is long (custody-wire §4.3).
const SEALED_BYTES: usize = 1427;
const QUEUE: usize = 8192;
const SEGMENT_BYTES: u64 = 256 << 20;

struct Quiet;

impl LogObserver for Quiet {
    fn failed(&self, _detail: &str) {}
    fn recovered(&self) {}
    fn wrote(&self, _entries: usize, _seals: usize, _bytes: usize, _took: Duration) {}
    fn roll_failed(&self, _detail: &str) {}
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, in_flight, seconds] = arguments.as_slice() else {
        return Err("usage: append FOLDER IN_FLIGHT SECONDS".into());
    };
    let seconds: f64 = seconds.parse()?;
    let alone = one_by_one(Path::new(folder), seconds)?;
    let log_folder = Path::new(folder).join("log");
    std::fs::create_dir(&log_folder)?;
    let began = Instant::now();
    let (files, _) = LogFiles::open(&log_folder, 0, SEGMENT_BYTES)?;
    let patience = Patience { queue: QUEUE, full: Duration::ZERO, witness: None };
    let (log, writer) = Log::start(Box::new(files), Beginning::default(), patience, Arc::new(Quiet))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut latencies = runtime.block_on(drive(&log, in_flight.parse()?, until))?;
    log.close();
    drop(log);
    writer.join().map_err(|_| "the writer panicked")?;
    println!("{}", report(&mut latencies, began.elapsed(), alone));
    Ok(())
}

fn entry(n: usize) -> Entry {
    Entry::Record {
        direction: Direction::Received,
        refused: None,
        detail: None,
        sealed: Some("s".repeat(SEALED_BYTES)),
        ancestors: Vec::new(),
        claims: Some(Claims {
            iss: "spiffe://example.org/agents/crm-assistant/orchestrator".into(),
            aud: "spiffe://example.org/agents/crm-assistant/reasoner".into(),
            jti: format!("{n:022}"),
            exp: 1,
            cid: format!("{n:022}"),
            hop: 0,
            op: Some("POST /v1/chat".into()),
            args_hash: None,
        }),
    }
}

async fn drive(log: &Log, in_flight: usize, until: Instant) -> Result<Vec<Duration>, Failure> {
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..in_flight {
        let log = log.clone();
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while Instant::now() < until {
                let began = Instant::now();
                log.append(entry(task), Vec::new()).await.map_err(|error| format!("{error:?}"))?;
                latencies.push(began.elapsed());
            }
            Ok::<_, String>(latencies)
        });
    }
    let mut all = Vec::new();
    while let Some(finished) = tasks.join_next().await {
        all.extend(finished??);
    }
    Ok(all)
}

/// Entries a second with one durable write each.
fn one_by_one(folder: &Path, seconds: f64) -> Result<f64, Failure> {
    let mut file = File::create(folder.join("alone"))?;
    let mut line = Vec::new();
    entry(0).write_line(0, 0, &mut line)?;
    let (began, mut written) = (Instant::now(), 0_u32);
    while began.elapsed().as_secs_f64() < seconds {
        file.write_all(&line)?;
        file.sync_data()?;
        written += 1;
    }
    Ok(f64::from(written) / began.elapsed().as_secs_f64())
}

fn report(latencies: &mut [Duration], took: Duration, alone: f64) -> serde_json::Value {
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share) as usize;
        latencies.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    };
    serde_json::json!({
        "entries": latencies.len(),
        "per_s": latencies.len() as f64 / took.as_secs_f64(),
        "p50_ms": at(0.50),
        "p99_ms": at(0.99),
        "alone_per_s": alone,
    })
}
