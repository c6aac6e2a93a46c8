//! What the engine needs to know of the machine: the clock since boot, the boot itself, the file system.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the machine was started, suspended time included: the clock of leases. The same in every process,
/// and no operator or time server steps it.
pub(super) fn boot_millis() -> i64 {
    #[cfg(target_os = "linux")]
    const CLOCK: ClockId = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: ClockId = ClockId::Monotonic;
    let now = clock_gettime(CLOCK);
    now.tv_sec.saturating_mul(1000) + now.tv_nsec / 1_000_000
}

/// The clock by which the engine's own threads wait: the system's, which no test pauses.
#[expect(
    clippy::disallowed_methods,
    reason = "an OS thread sleeps by the clock of the OS"
)]
pub(super) fn monotonic() -> Instant {
    Instant::now()
}

/// Names this boot of the machine; leases of another boot are void.
pub(super) fn boot_name() -> String {
    // Without this file the lock files alone say who is alive, which is enough: no lock survives a boot.
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}

/// Makes a folder that only this user can enter, with its parents.
pub(super) fn private_folder(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Opens a file that only this user can read, and makes it if it is not there.
pub(super) fn private_file(path: &Path) -> io::Result<std::fs::File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Makes the names in a folder survive a power cut.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}

/// The file system under a path.
pub(super) struct FileSystem {
    /// The name of a kind that two machines may share, or that has no shared memory: not for us.
    pub(super) shared: Option<&'static str>,
    /// Bytes that this user may still write.
    pub(super) free: u64,
}

/// Looks at the file system under a path that exists.
#[cfg(target_os = "linux")]
pub(super) fn file_system(path: &Path) -> io::Result<FileSystem> {
    let found = rustix::fs::statfs(path)?;
    // From linux/magic.h; the type of the field depends on the platform.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a magic number has 32 bits"
    )]
    let shared = match found.f_type as u32 {
        0x6969 => Some("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("SMB"),
        0x0102_1997 => Some("9p"),
        0x6573_5546 => Some("FUSE"),
        0x5346_414f => Some("AFS"),
        0x00c3_6400 => Some("Ceph"),
        0x0bd0_0bd0 => Some("Lustre"),
        _ => None,
    };
    #[expect(clippy::cast_sign_loss, reason = "a block size is not negative")]
    let free = found.f_bavail.saturating_mul(found.f_bsize as u64);
    Ok(FileSystem { shared, free })
}

/// Looks at the file system under a path that exists.
#[cfg(not(target_os = "linux"))]
pub(super) fn file_system(path: &Path) -> io::Result<FileSystem> {
    let found = rustix::fs::statvfs(path)?;
    Ok(FileSystem {
        shared: None,
        free: found.f_bavail.saturating_mul(found.f_frsize),
    })
}

/// Device and number of a file, without opening it: closing a database file that was not opened by SQLite would drop the
/// locks of this process. `None`: it is not there, or cannot be looked at.
pub(super) fn file_number(path: &std::path::Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path)
        .ok()
        .map(|file| (file.dev(), file.ino()))
}
