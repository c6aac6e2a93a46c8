//! Compile errors are part of the product: what is written under `fail` does not compile, and says why as it is written
//! there; what is under `pass` compiles and runs.

use std::process::Command;

/// What rustc prints changes between versions, so it is compared on the pinned one only.
fn is_pinned() -> bool {
    let pinned = include_str!("../../rust-toolchain.toml")
        .lines()
        .find_map(|line| line.strip_prefix("channel = "))
        .map(|channel| format!("rustc {} ", channel.trim_matches('"')))
        .expect("the toolchain file names a channel");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .expect("rustc runs")
        .stdout;
    String::from_utf8_lossy(&version).starts_with(&pinned)
}

#[test]
fn mistakes_are_told_where_they_stand_and_what_is_right_compiles_and_runs() {
    let cases = trybuild::TestCases::new();
    cases.pass("ui/pass/*.rs");
    if is_pinned() {
        cases.compile_fail("ui/fail/*.rs");
    } else {
        skipped();
    }
}

#[expect(clippy::print_stderr, reason = "a skipped comparison must be seen")]
fn skipped() {
    eprintln!(
        "SKIPPED: tests/ui/fail is compared with the output of the toolchain in rust-toolchain.toml only"
    );
}
