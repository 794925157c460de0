//! The smallest real server for the benchmarks, on a Unix socket: answers `/<n>` with n bytes, anything else with `ok`.
//!
//! Usage: `origin /path/to.sock`. Request bodies are read to their end first, and not kept.

mod bodies;

use bodies::Repeated;
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

const OK_BYTES: u64 = 2;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let path = std::env::args().nth(1).ok_or("usage: origin /path/to.sock")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(&path))
}

async fn serve(path: &str) -> Result<(), Failure> {
    let listener = tokio::net::UnixListener::bind(path)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let service = service_fn(answer);
            let _closed =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<hyper::body::Incoming>) -> Result<Response<Repeated>, Failure> {
    let length = request.uri().path().trim_start_matches('/').parse().unwrap_or(OK_BYTES);
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(Response::new(Repeated::of(length)))
}
