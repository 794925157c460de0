//! Which process is at the other end of a Unix socket, pinned for as long as we look.
//!
//! Owns: `SO_PEERPIDFD`, its failure modes and the inode that names a process for the
//! life of the machine. Does not own: who that process is (the attestor says).
//!
//! Source: runtime.md "Naming a process between broker and attestor". On recent kernels the
//! option succeeds for a peer that is already dead, so the pidfd is polled at once.

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::PidfdFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `SO_PEERPIDFD` of `asm-generic/socket.h`, Linux 6.5; the libc crate does not name it.
const SO_PEERPIDFD: libc::c_int = 77;

/// File system of pidfds that have inodes of their own (`linux/magic.h`, Linux 6.9). Before it, every
/// pidfd had the one anonymous inode, and all processes would be taken for the same one.
const PIDFS_MAGIC: libc::c_long = 0x5049_4446;

/// A process at the other end of a connected Unix socket.
#[derive(Debug)]
pub struct PinnedPeer {
    /// Readable once the process has exited; never reused for another process.
    pub pidfd: OwnedFd,
    /// Names the process: unique until the machine restarts (Linux 6.9).
    pub inode: u64,
    /// 0 if the process lives in a sibling pid namespace.
    pub pid: i32,
    /// Effective user when it connected or listened.
    pub uid: u32,
}

/// Why a peer could not be pinned.
#[derive(Debug)]
pub enum PinError {
    /// The process has exited.
    Gone,
    /// The kernel does not know `SO_PEERPIDFD`.
    Unsupported,
    /// Anything else, such as no descriptors left.
    Io(io::Error),
}

impl fmt::Display for PinError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => formatter.write_str("the process has exited"),
            Self::Unsupported => formatter.write_str("the kernel does not know SO_PEERPIDFD"),
            Self::Io(error) => error.fmt(formatter),
        }
    }
}

/// Pins the process behind `socket`.
///
/// # Errors
/// [`PinError::Gone`] if it has exited, also when it did so a moment ago.
pub fn pin_peer(socket: BorrowedFd<'_>) -> Result<PinnedPeer, PinError> {
    let (pid, uid) = peer_credentials(socket)?;
    let pidfd = peer_pidfd(socket)?;
    if is_dead(pidfd.as_fd()) {
        return Err(PinError::Gone);
    }
    let status = rustix::fs::fstat(&pidfd).map_err(|error| PinError::Io(error.into()))?;
    Ok(PinnedPeer { pidfd, inode: status.st_ino, pid, uid })
}

/// Whether the process behind `pidfd` has exited; an unreadable descriptor counts as dead.
pub fn is_dead(pidfd: BorrowedFd<'_>) -> bool {
    let mut descriptors = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let at_once = Timespec::try_from(Duration::ZERO).ok();
    !matches!(poll(&mut descriptors, at_once.as_ref()), Ok(0))
}

/// Waits until the process behind `pidfd` has exited; one that cannot be watched counts as dead.
///
/// Must be called inside the runtime.
pub async fn wait_dead(pidfd: OwnedFd) {
    if let Ok(watched) = watch(pidfd) {
        let _readable_means_exited = watched.readable().await;
    }
}

#[allow(unsafe_code, reason = "tokio asks its caller to keep the descriptor open and the same")]
fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `OwnedFd` is moved in, stays open and never changes until the `AsyncFd` is dropped.
    unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.map_err(io::Error::from)
}

/// Whether this kernel can pin peers and tells them apart by inode; asked once at start.
pub fn is_supported() -> bool {
    let pair = std::os::unix::net::UnixStream::pair();
    pair.is_ok_and(|(one, _other)| peer_pidfd(one.as_fd()).is_ok_and(|pidfd| has_own_inode(pidfd.as_fd())))
}

/// The process `pid`, if it is still the one with this pidfd inode; for a peer that another process pinned before.
pub fn reopen(pid: i32, inode: u64, uid: u32) -> Option<PinnedPeer> {
    let pidfd = rustix::process::pidfd_open(rustix::process::Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let is_it = rustix::fs::fstat(&pidfd).is_ok_and(|found| found.st_ino == inode) && !is_dead(pidfd.as_fd());
    is_it.then_some(PinnedPeer { pidfd, inode, pid, uid })
}

fn has_own_inode(pidfd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(pidfd).is_ok_and(|found| found.f_type == PIDFS_MAGIC)
}

/// pid (0 when it lives in a pid namespace that we cannot see) and effective uid.
fn peer_credentials(socket: BorrowedFd<'_>) -> Result<(i32, u32), PinError> {
    let unset = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let credentials = socket_option(socket, libc::SO_PEERCRED, unset).map_err(PinError::Io)?;
    Ok((credentials.pid, credentials.uid))
}

#[allow(unsafe_code, reason = "no safe crate wraps SO_PEERPIDFD")]
fn peer_pidfd(socket: BorrowedFd<'_>) -> Result<OwnedFd, PinError> {
    match socket_option(socket, SO_PEERPIDFD, -1) {
        // SAFETY: the kernel has just opened this descriptor for us and nobody else owns it.
        Ok(raw) if raw >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(raw) }),
        Ok(_) => Err(PinError::Gone),
        Err(error) => Err(match error.raw_os_error() {
            Some(libc::EINVAL | libc::ESRCH) => PinError::Gone,
            Some(libc::ENOPROTOOPT) => PinError::Unsupported,
            _ => PinError::Io(error),
        }),
    }
}

/// The socket option `name` at level `SOL_SOCKET`; only for plain C values, as the two above.
#[allow(unsafe_code, reason = "rustix has no raw getsockopt, and its SO_PEERCRED cannot hold pid 0")]
fn socket_option<T: Copy>(socket: BorrowedFd<'_>, name: libc::c_int, mut value: T) -> io::Result<T> {
    let mut length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` and `length` outlive the call, `length` is the size of `value`, and every
    // bit pattern is a valid `T` for the integer types and `ucred` this is called with.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            std::ptr::from_mut(&mut value).cast(),
            &raw mut length,
        )
    };
    if answer == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn our_own_process_is_pinned_with_its_uid() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = pin_peer(one.as_fd()).unwrap();
        assert_eq!(peer.pid, std::process::id() as i32);
        assert_eq!(peer.uid, rustix::process::getuid().as_raw());
        assert!(peer.inode > 0);
        assert!(!is_dead(peer.pidfd.as_fd()));
    }

    #[test]
    fn a_descriptor_with_the_anonymous_inode_names_no_process() {
        let anonymous = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        assert!(!has_own_inode(anonymous.as_fd()));
        assert!(is_supported());
    }

    #[test]
    fn a_process_is_opened_again_by_its_pid_only_if_it_is_the_same() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = pin_peer(one.as_fd()).unwrap();
        assert_eq!(reopen(peer.pid, peer.inode, peer.uid).map(|found| found.inode), Some(peer.inode));
        assert!(reopen(peer.pid, peer.inode + 1, peer.uid).is_none() && reopen(0, peer.inode, peer.uid).is_none());
    }

    #[test]
    fn two_connections_of_one_process_have_one_inode() {
        let (one, other) = UnixStream::pair().unwrap();
        assert_eq!(pin_peer(one.as_fd()).unwrap().inode, pin_peer(other.as_fd()).unwrap().inode);
    }
}
