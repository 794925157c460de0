//! Taking over the path of `out.sock` without taking it from anybody who lives.
//!
//! Owns: the start-up rules of a socket path (threats.md section 6). A lock beside the socket makes
//! two daemons that start at once meet; a symlink, a plain file or a live daemon is refused, a stale
//! socket replaced. Does not own: who may connect (the folder's and socket's modes say).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, chmod, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that wait for accept.
const BACKLOG: i32 = 1024;

/// Why a path cannot be used, as `(code, message)`.
pub type PathRefused = (&'static str, String);

/// A bound socket; dropping it removes the path if it is still ours.
pub struct BoundSocket {
    pub listener: UnixListener,
    path: PathBuf,
    inode: u64,
    lock: File,
    /// Another process has it: the path stays when this one goes.
    is_shared: bool,
}

impl BoundSocket {
    /// The socket that another process bound at `path` and passed on, with the lock that it holds.
    ///
    /// # Errors
    /// `socket_failed`: something else is at the path now.
    pub fn inherit(path: &Path, listener: UnixListener, lock: File) -> Result<Self, PathRefused> {
        let inode = fs::symlink_metadata(path).map_err(|error| failed(&path.display(), &error))?.ino();
        let bound = listener.local_addr().map_err(|error| failed(&path.display(), &error))?;
        if bound.as_pathname() != Some(path) {
            return Err(("socket_failed", format!("{} is not where the inherited socket is bound", path.display())));
        }
        Ok(Self { listener, path: path.to_owned(), inode, lock, is_shared: false })
    }

    /// Socket and lock, for the process that takes over.
    pub fn descriptors(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.listener.as_fd(), self.lock.as_fd())
    }

    /// Closes it here and leaves it to the process that has taken over.
    pub fn leave(mut self) {
        self.is_shared = true;
    }
}

/// Binds `path` with permission bits `mode`.
///
/// # Errors
/// `socket_in_use`, `socket_path_occupied`, `socket_folder_unsafe` or `socket_failed`.
pub fn bind(path: &Path, mode: u32) -> Result<BoundSocket, PathRefused> {
    let shown = path.display();
    verify_folder(path)?;
    let lock = lock(path)?;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&shown, &error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(("socket_path_occupied", format!("{shown} exists and is not a socket")));
        }
        Ok(_) => remove_stale(path)?,
    }
    let listener = listen(path, mode).map_err(|error| failed(&shown, &error))?;
    let inode = fs::symlink_metadata(path).map_err(|error| failed(&shown, &error))?.ino();
    Ok(BoundSocket { listener, path: path.to_owned(), inode, lock, is_shared: false })
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode);
        if ours && !self.is_shared {
            let _stale_one_is_replaced_later = fs::remove_file(&self.path);
        }
    }
}

fn failed(shown: &std::path::Display<'_>, error: &io::Error) -> PathRefused {
    ("socket_failed", format!("{shown}: {error}"))
}

/// Anyone who can write the folder can put their own socket in our place.
fn verify_folder(path: &Path) -> Result<(), PathRefused> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = fs::metadata(folder).map_err(|error| failed(&folder.display(), &error))?;
    let mode = found.permissions().mode();
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        let message = format!("{} can be written by others (mode {:o})", folder.display(), mode & 0o7777);
        return Err(("socket_folder_unsafe", message));
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, PathRefused> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&name)
        .map_err(|error| failed(&name.display(), &error))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| ("socket_in_use", format!("another daemon holds {}", name.display())))?;
    Ok(file)
}

fn remove_stale(path: &Path) -> Result<(), PathRefused> {
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| failed(&path.display(), &error))
        }
        // A full backlog or missing permission also means that somebody listens.
        Ok(_) | Err(_) => Err(("socket_in_use", format!("another process listens on {}", path.display()))),
    }
}

/// The mode is set before anybody can connect: a bound socket refuses until it listens.
fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    chmod(path, Mode::from_raw_mode(mode))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("hopseal-socket-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    fn code(path: &Path) -> Option<&'static str> {
        bind(path, 0o777).err().map(|(code, _)| code)
    }

    #[test]
    fn a_bound_socket_has_its_mode_and_leaves_with_its_owner() {
        let path = folder("mode").join("out.sock");
        let bound = bind(&path, 0o666).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
        assert_eq!(code(&path), Some("socket_in_use"));
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_daemon_without_our_lock_is_refused_and_a_stale_socket_replaced() {
        let path = folder("live").join("out.sock");
        let other = UnixListener::bind(&path).unwrap();
        assert_eq!(code(&path), Some("socket_in_use"));
        drop(other);
        assert!(path.exists());
        assert_eq!(code(&path), None);
    }

    #[test]
    fn plain_files_and_symlinks_are_never_replaced() {
        let folder = folder("occupied");
        let path = folder.join("out.sock");
        fs::write(&path, "precious").unwrap();
        assert_eq!(code(&path), Some("socket_path_occupied"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(folder.join("elsewhere"), &path).unwrap();
        assert_eq!(code(&path), Some("socket_path_occupied"));
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused_unless_sticky() {
        let folder = folder("unsafe");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o775)).unwrap();
        assert_eq!(code(&folder.join("out.sock")), Some("socket_folder_unsafe"));
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(code(&folder.join("out.sock")), None);
    }

    #[test]
    fn a_socket_that_another_put_in_our_place_is_not_removed() {
        let path = folder("rebound").join("out.sock");
        let bound = bind(&path, 0o777).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
    }
}
