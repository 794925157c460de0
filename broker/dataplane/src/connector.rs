//! Connections to components that listen on TCP in a network namespace of their own: the attestor makes them.
//!
//! Owns: asking on its `connect.sock`, and what comes back. Does not own: who is at the other end: the attestor has
//! looked, and is asked about that process as about any listener.
//!
//! Source: docs/adr/0016.

use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::Deserialize;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

use crate::pidfd::PinnedPeer;

/// Longest answer.
const MAX_ANSWER_BYTES: usize = 4096;
const PREFIX: &str = "tcp://";

/// What the attestor says.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Made { pidfd_inode: u64, pid: i32 },
    Refused { refused: String, detail: String },
}

/// Whether a component listens on TCP; else `listen` is the path of a Unix socket.
pub fn is_tcp(listen: &Path) -> bool {
    listen.to_str().is_some_and(|text| text.starts_with(PREFIX))
}

/// A connection to `component`, and a process that holds its other end.
///
/// # Errors
/// Why there is none, for the operator.
pub async fn connect(attestor: Option<&Path>, component: &str) -> Result<(tokio::net::TcpStream, PinnedPeer), String> {
    let attestor = attestor.ok_or("attestor.connect_socket is not configured")?;
    let asked = ask(attestor, component).await.map_err(|error| format!("{}: {error}", attestor.display()))?;
    let (answer, descriptors) = asked;
    let answer = serde_json::from_slice(&answer).map_err(|error| format!("the attestor's answer: {error}"))?;
    match (answer, <[OwnedFd; 2]>::try_from(descriptors)) {
        (Answer::Made { pidfd_inode, pid }, Ok([stream, pidfd])) => {
            let stream = TcpStream::from(stream);
            let taken = stream.set_nonblocking(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
            let taken = taken.map_err(|error| error.to_string())?;
            Ok((taken, PinnedPeer { pidfd, inode: pidfd_inode, pid, uid: 0 }))
        }
        (Answer::Refused { refused, detail }, _) => Err(format!("{refused}: {detail}")),
        (Answer::Made { .. }, Err(_)) => Err("the attestor passed no connection".to_owned()),
    }
}

async fn ask(attestor: &Path, component: &str) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut stream = UnixStream::connect(attestor).await?;
    let mut request = serde_json::json!({"component": component}).to_string();
    request.push('\n');
    stream.write_all(request.as_bytes()).await?;
    stream.async_io(Interest::READABLE, || receive(&stream)).await
}

/// The answer is one message: it is short, and descriptors come with its first byte.
fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut text = [0; MAX_ANSWER_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(stream.as_fd(), &mut [io::IoSliceMut::new(&mut text)], &mut ancillary, flags)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    Ok((text[..received.bytes].to_vec(), descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tcp_address_is_no_path() {
        assert!(is_tcp(Path::new("tcp://127.0.0.1:80")));
        assert!(!is_tcp(Path::new("/run/tcp://127.0.0.1:80")));
    }

    #[tokio::test]
    async fn without_an_attestor_there_is_no_connection() {
        assert!(connect(None, "a/c").await.unwrap_err().contains("connect_socket"));
        assert!(connect(Some(Path::new("/nonexistent/connect.sock")), "a/c").await.is_err());
    }
}
