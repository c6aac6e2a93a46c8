//! The quickstart, as it is, on a broker: what changes is its configuration.

use std::path::{Path, PathBuf};
use std::process::Command;

use go_queue_tests::Folder;
use go_queue_tests::servers::{KafkaCluster, kafka_is_installed};

/// The root of the workspace.
fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The folder of the programs of this build.
fn target() -> PathBuf {
    let tests = Path::new(env!("CARGO_BIN_EXE_ledger_worker"));
    tests
        .parent()
        .expect("a program lies in a folder")
        .to_owned()
}

/// Every order charged once, in the order of its customer, every reminder after its charge, and nothing again at the second start:
/// `.ci/quickstart` says so of SQLite too.
#[test]
fn the_quickstart_runs_on_kafka_by_its_configuration_alone() {
    if !kafka_is_installed() {
        return;
    }
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(root());
    build.args([
        "build",
        "--offline",
        "--quiet",
        "-p",
        "quickstart",
        "--features",
        "kafka",
    ]);
    assert!(
        build.status().expect("cargo runs").success(),
        "the quickstart builds"
    );
    let folder = Folder::new("quickstart-kafka");
    let cluster = KafkaCluster::single(folder.path());
    let home = folder.join("home");
    std::fs::create_dir(&home).expect("the folder of the test is writable");
    let yaml = format!(
        "name: quickstart\ndq: {{ engine: sqlite }}\nkq:\n  brokers: [\"{}\"]\n  create_topics: true\n",
        cluster.endpoints()
    );
    std::fs::write(home.join("config.yaml"), yaml).expect("the folder of the test is writable");
    let output = Command::new(root().join(".ci/quickstart"))
        .arg(target().join("quickstart"))
        .arg(&home)
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{wrong}");
    // What it says it did, it did there.
    assert_eq!(cluster.raw().lag("billing", "orders"), 0);
    assert!(cluster.raw().len("orders") > 0);
}
