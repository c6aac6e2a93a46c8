//! Where a test keeps its files, and ports that nobody uses.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::{fs, io};

use tempfile::TempDir;

/// A folder of one test. Removed at the end, kept if the test fails.
#[derive(Debug)]
pub struct Folder {
    dir: Option<TempDir>,
    path: PathBuf,
}

impl Folder {
    /// A new, empty folder with `name` in its path.
    ///
    /// # Panics
    /// If the folder cannot be made.
    pub fn new(name: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix(&format!("go-queue-{name}-"))
            .tempdir()
            .expect("a folder for temporary files");
        let path = dir.path().to_owned();
        Self {
            dir: Some(dir),
            path,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file or folder in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file into it and says where.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.join(name);
        let written: io::Result<()> = fs::write(&path, text);
        written.expect("the folder of the test is writable");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            report_kept(&dir.keep());
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "whoever looks at a failed test needs the place"
)]
fn report_kept(path: &Path) {
    eprintln!("the files of the failed test are kept: {}", path.display());
}

/// A port of the loopback interface that nobody listens on now. Whoever binds it next has it.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
    listener
        .local_addr()
        .expect("a bound listener has an address")
        .port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_gone_after_the_test() {
        let folder = Folder::new("gone");
        let path = folder.write("file", "text");
        assert!(path.exists());
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_of_a_failed_test_is_kept() {
        let path = std::thread::scope(|scope| {
            let failing = scope.spawn(|| {
                let folder = Folder::new("kept");
                let path = folder.write("file", "text");
                let _folder = folder;
                assert!(path.as_os_str().is_empty(), "{}", path.display());
            });
            let panic = failing.join().expect_err("the thread panics");
            let text = panic
                .downcast_ref::<String>()
                .expect("a text with the path");
            PathBuf::from(text)
        });
        assert_eq!(
            fs::read_to_string(&path).expect("the file is still there"),
            "text"
        );
        let folder = path.parent().expect("the folder of the file");
        fs::remove_dir_all(folder).expect("it is ours to remove");
    }

    #[test]
    fn a_free_port_can_be_bound() {
        TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).expect("the port is free");
    }
}
