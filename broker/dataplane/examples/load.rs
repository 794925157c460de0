//! A load generator for the benchmarks: HTTP/1.1 keep-alive over a Unix socket or TCP, one JSON line of figures.
//!
//! Usage: `load unix:/path|tcp:host:port HOST PATH CONNECTIONS WARMUP_S SECONDS [--upload BYTES] [HEADER:VALUE …]`
//! Every connection sends its next request when the answer to the last one is complete (closed loop). With no warm-up and
//! no seconds each sends one request. With `--upload` requests are POST with a body of so many bytes.
#![allow(clippy::print_stdout, reason = "its output is its result")]

use std::time::{Duration, Instant};

mod bodies;

use bodies::Repeated;
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
struct Plan {
    target: String,
    host: String,
    path: String,
    headers: Vec<(String, String)>,
    upload: Option<u64>,
    warm_until: Instant,
    end: Instant,
}

#[derive(Default)]
struct Figures {
    latencies_us: Vec<u64>,
    refused: u64,
    failed: u64,
    /// Answers, those while warming up among them.
    answers: u64,
    bytes: u64,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, host, path, connections, warmup_s, seconds, rest @ ..] = arguments.as_slice() else {
        return Err(
            "usage: load TARGET HOST PATH CONNECTIONS WARMUP_S SECONDS [--upload BYTES] [HEADER:VALUE …]".into()
        );
    };
    let (upload, headers) = match rest {
        [option, bytes, headers @ ..] if option == "--upload" => (Some(bytes.parse()?), headers),
        headers => (None, headers),
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
        upload,
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
            loop {
                if connection(&plan, &mut figures).await.is_err() {
                    figures.failed += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                if Instant::now() >= plan.end {
                    break;
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
                total.answers += one.answers;
                total.bytes += one.bytes;
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
    loop {
        let began = Instant::now();
        let answer = sender.send_request(request(plan)?).await?;
        let status = answer.status();
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            figures.bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
        }
        figures.answers += 1;
        if began >= plan.warm_until {
            if status == StatusCode::OK {
                figures.latencies_us.push(u64::try_from(began.elapsed().as_micros())?);
            } else {
                figures.refused += 1;
            }
        }
        if Instant::now() >= plan.end {
            break;
        }
    }
    drop(sender);
    let _closed = driving.await;
    Ok(())
}

fn request(plan: &Plan) -> Result<Request<Repeated>, Failure> {
    let method = if plan.upload.is_some() { Method::POST } else { Method::GET };
    let mut request = Request::builder().method(method).uri(plan.path.as_str()).header("host", plan.host.as_str());
    for (name, value) in &plan.headers {
        request = request.header(name.as_str(), value.as_str());
    }
    Ok(request.body(Repeated::of(plan.upload.unwrap_or(0)))?)
}

fn report(mut figures: Figures, seconds: f64) -> serde_json::Value {
    figures.latencies_us.sort_unstable();
    let count = figures.latencies_us.len();
    let at = |share: usize| figures.latencies_us.get((count * share / 1000).min(count.saturating_sub(1))).copied();
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = count as f64 / seconds;
    serde_json::json!({
        "requests": count, "refused": figures.refused, "failed": figures.failed, "per_second": rate,
        "answers": figures.answers, "bytes": figures.bytes,
        "p50_us": at(500), "p90_us": at(900), "p99_us": at(990),
    })
}
