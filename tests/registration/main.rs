//! The linking trap: rustc does not load a crate that no source line names, so its handlers are not there. These are real
//! crates, built here as their users would build them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const ALL_OF_THE_CRATE: [&str; 3] = [
    "linking_handlers::at_the_root",
    "linking_handlers::in_a_function",
    "linking_handlers::private::deep::in_a_private_module",
];

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/linking")
}

fn cargo(command: &str) -> Command {
    // With the lock file of the repository nothing has to be downloaded, and nothing is built twice.
    static LOCK: OnceLock<()> = OnceLock::new();
    LOCK.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
        std::fs::copy(root, fixture().join("Cargo.lock")).expect("the lock file can be copied");
    });
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(fixture())
        .args([command, "--offline", "--quiet", "--target-dir"])
        .arg(target());
    cargo
}

fn target() -> &'static Path {
    let here = Path::new(env!("CARGO_TARGET_TMPDIR"));
    here.parent()
        .expect("cargo gives a folder in the target folder")
}

/// What a program prints, line by line.
fn lines(program: &str) -> Vec<String> {
    let text = printed(program, &[]);
    text.lines().map(str::to_owned).collect()
}

fn printed(program: &str, arguments: &[&Path]) -> String {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let built = cargo("build").status().expect("cargo runs");
        assert!(
            built.success(),
            "the crates under tests/fixtures/linking build"
        );
    });
    let program = target().join("debug").join(program);
    let output = Command::new(&program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| unreachable!("{} was built: {error}", program.display()));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("it is text")
}

#[test]
fn engines_that_are_not_part_of_a_program_are_told_with_the_handler() {
    let folder = go_queue_tests::Folder::new("bare");
    let file = folder.path().join("app.yaml");
    for (yaml, engine, handler, other) in [
        (
            "dq: { engine: memory }\nkq: { brokers: [\"a:1\"] }",
            "the kafka engine",
            "charge",
            "remind",
        ),
        (
            "dq: { beanstalks: [a:1] }\nkq: { engine: memory }",
            "the beanstalkd engine",
            "remind",
            "charge",
        ),
    ] {
        std::fs::write(&file, yaml).expect("the folder is ours");
        let report = printed("linking-bare", &[&file]);
        assert!(
            report.contains(engine) && report.contains(handler),
            "{report}"
        );
        assert!(!report.contains(other), "{report}");
    }
}

#[test]
fn a_crate_that_no_source_line_names_registers_nothing() {
    assert_eq!(lines("linking-unnamed"), [""; 0]);
}

#[test]
fn a_crate_that_is_named_registers_all_of_its_handlers() {
    assert_eq!(lines("linking-named"), ALL_OF_THE_CRATE);
}

#[test]
fn one_constant_of_a_crate_is_enough_to_register_all_of_its_handlers() {
    assert_eq!(lines("linking-constant"), ALL_OF_THE_CRATE);
}

#[test]
fn a_crate_that_only_the_manifest_of_a_dependency_names_registers_nothing() {
    assert_eq!(lines("linking-onward"), ["linking_onward::onward"]);
}

#[test]
fn a_program_that_does_not_name_its_own_library_has_only_its_own_handlers() {
    assert_eq!(lines("linking-own"), ["linking_own::in_the_program"]);
}

#[test]
fn choosing_a_handler_by_name_links_its_crate() {
    assert_eq!(lines("linking-chosen"), ["linking_handlers::at_the_root"]);
}

#[test]
fn the_library_may_have_another_name() {
    let handlers = ["linking_renamed::task", "linking_renamed::records"];
    assert_eq!(lines("linking-renamed"), handlers);
}

#[test]
fn what_is_generated_passes_pedantic_clippy() {
    let clippy = Command::new(env!("CARGO"))
        .args(["clippy", "--version"])
        .output();
    if !clippy.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "clippy is there in CI");
        return skipped();
    }
    let arguments = ["--no-deps", "--package", "linking-strict"];
    let output = cargo("clippy")
        .args(arguments)
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[expect(clippy::print_stderr, reason = "a skipped check must be seen")]
fn skipped() {
    eprintln!("SKIPPED: clippy is not installed");
}
