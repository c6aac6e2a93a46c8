//! Where a figure was measured. Without it a figure says little.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::Instant;

use crate::figures::median;

/// A few lines for the head of a table.
pub(crate) fn describe(dir: &Path) -> Vec<String> {
    let cores = available_parallelism().map_or(0, usize::from);
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown CPU", |(_, name)| name.trim());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let rustc = Command::new("rustc").arg("--version").output();
    let rustc = rustc.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    let sync = fdatasync_millis(dir).map_or_else(
        || "fdatasync not measured".to_owned(),
        |millis| format!("fdatasync of 4 KiB {millis:.3} ms"),
    );
    vec![
        format!(
            "{model}, {cores} cores, {} {}, load {}",
            std::env::consts::OS,
            kernel.trim(),
            load.split(' ').next().unwrap_or("?")
        ),
        format!(
            "{}, glibc malloc unless said, {sync}",
            rustc.unwrap_or_else(|_| "rustc unknown".to_owned())
        ),
    ]
}

/// Median of what one `fdatasync` takes after 4 KiB were appended, as a write-ahead log does.
pub(crate) fn fdatasync_millis(dir: &Path) -> Option<f64> {
    fs::create_dir_all(dir).ok()?;
    let path = dir.join(format!("sync-{}", std::process::id()));
    let measured = (|| {
        let mut file = File::create(&path)?;
        let mut times = Vec::new();
        for _ in 0..200 {
            file.write_all(&[7; 4096])?;
            let began = Instant::now();
            file.sync_data()?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        std::io::Result::Ok(median(times))
    })();
    let _ = fs::remove_file(&path);
    measured.ok()
}
