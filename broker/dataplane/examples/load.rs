//! A load generator for the benchmarks: HTTP/1.1 keep-alive over a Unix socket or TCP, one JSON line of figures.
//!
//! Usage: `load unix:/path|tcp:host:port HOST PATH CONNECTIONS WARMUP_S SECONDS [HEADER:VALUE …]`
//! Every connection sends its next request when the answer to the last one is complete (closed loop).
#![allow(clippy::print_stdout, reason = "its output is its result")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
struct Plan {
    target: String,
    host: String,
    path: String,
    headers: Vec<(String, String)>,
    warm_until: Instant,
    end: Instant,
}

#[derive(Default)]
struct Figures {
    latencies_us: Vec<u64>,
    refused: u64,
    failed: u64,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, host, path, connections, warmup_s, seconds, headers @ ..] = arguments.as_slice() else {
        return Err("usage: load TARGET HOST PATH CONNECTIONS WARMUP_S SECONDS [HEADER:VALUE …]".into());
    };
    let started = Instant::now();
    let warm_until = started + Duration::from_secs_f64(warmup_s.parse()?);
    let plan = Plan {
        target: target.clone(),
        host: host.clone(),
        path: path.clone(),
        headers: headers
            .iter()
            .filter_map(|each| each.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned())))
            .collect(),
        warm_until,
        end: warm_until + Duration::from_secs_f64(seconds.parse()?),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figures = runtime.block_on(drive(&plan, connections.parse()?));
    println!("{}", report(figures, seconds.parse()?));
    Ok(())
}

async fn drive(plan: &Plan, connections: usize) -> Figures {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let plan = plan.clone();
        tasks.spawn(async move {
            let mut figures = Figures::default();
            while Instant::now() < plan.end {
                if connection(&plan, &mut figures).await.is_err() {
                    figures.failed += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            figures
        });
    }
    let mut total = Figures::default();
    while let Some(outcome) = tasks.join_next().await {
        match outcome {
            Ok(one) => {
                total.latencies_us.extend(one.latencies_us);
                total.refused += one.refused;
                total.failed += one.failed;
            }
            Err(_) => total.failed += 1,
        }
    }
    total
}

async fn connection(plan: &Plan, figures: &mut Figures) -> Result<(), Failure> {
    match plan.target.split_once(':') {
        Some(("unix", path)) => requests(tokio::net::UnixStream::connect(path).await?, plan, figures).await,
        Some(("tcp", address)) => {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            requests(stream, plan, figures).await
        }
        _ => Err("TARGET is unix:/path or tcp:host:port".into()),
    }
}

async fn requests<S>(stream: S, plan: &Plan, figures: &mut Figures) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(driver);
    while Instant::now() < plan.end {
        let mut request = Request::get(plan.path.as_str()).header("host", plan.host.as_str());
        for (name, value) in &plan.headers {
            request = request.header(name.as_str(), value.as_str());
        }
        let began = Instant::now();
        let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = answer.status();
        answer.into_body().collect().await?;
        if began >= plan.warm_until {
            if status == StatusCode::OK {
                figures.latencies_us.push(u64::try_from(began.elapsed().as_micros())?);
            } else {
                figures.refused += 1;
            }
        }
    }
    drop(sender);
    let _closed = driving.await;
    Ok(())
}

fn report(mut figures: Figures, seconds: f64) -> serde_json::Value {
    figures.latencies_us.sort_unstable();
    let count = figures.latencies_us.len();
    let at = |share: usize| figures.latencies_us.get((count * share / 1000).min(count.saturating_sub(1))).copied();
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = count as f64 / seconds;
    serde_json::json!({
        "requests": count, "refused": figures.refused, "failed": figures.failed, "per_second": rate,
        "p50_us": at(500), "p90_us": at(900), "p99_us": at(990),
    })
}
