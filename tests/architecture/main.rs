//! Holds what the compiler does not: the layers of the library, and a few habits.
//!
//! The layers are drawn in `docs/ARCHITECTURE.md`; the table that is held here is in `layers.rs`. Code under
//! `#[cfg(test)]` may use what it likes.

mod habits;
mod layers;
mod source;

use std::path::{Path, PathBuf};

use source::{Crate, SourceFile};

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the member lies in the workspace")
        .to_owned()
}

fn library() -> Crate {
    Crate::read(&root(), Path::new("go-queue/src")).expect("the sources of the library parse")
}

fn macros() -> Crate {
    Crate::read(&root(), Path::new("go-queue-macros/src")).expect("the sources of the macros parse")
}

#[track_caller]
fn assert_none(violations: &[String]) {
    assert!(
        violations.is_empty(),
        "{} broken:\n{}",
        violations.len(),
        violations.join("\n")
    );
}

#[test]
fn imports_go_downwards() {
    assert_none(&layers::violations(&library()));
}

#[test]
fn state_lives_in_values_and_not_in_statics() {
    assert_none(&habits::statics_with_state(&library()));
    assert_none(&habits::statics_with_state(&macros()));
}

#[test]
fn names_say_what_a_thing_is() {
    assert_none(&habits::empty_names(&library()));
    assert_none(&habits::empty_names(&macros()));
}

#[test]
fn no_path_of_somebodys_machine_is_written_down() {
    assert_none(&habits::machine_paths(&library()));
    assert_none(&habits::machine_paths(&macros()));
}

#[test]
fn the_library_was_found_and_read() {
    // Guards the four tests above against an empty folder or a parser that sees nothing.
    let library = library();
    let uses: usize = library.files.iter().map(|file| file.paths.len()).sum();
    assert!(library.files.len() > 20, "{} files", library.files.len());
    assert!(uses > 100, "{uses} paths into the crate");
}

/// A crate of these files, as `(path below src, text)`.
fn snippet(files: &[(&str, &str)]) -> Crate {
    Crate::of(files.iter().map(|(path, text)| {
        SourceFile::parse(Path::new("src"), Path::new(path), text).expect("the snippet parses")
    }))
}

mod layer_rules {
    use super::{layers::violations, snippet};

    #[track_caller]
    fn refused(path: &str, text: &str, line: usize, part: &str) {
        let found = violations(&snippet(&[
            (path, text),
            ("engine/mod.rs", ""),
            ("engine/sqlite/mod.rs", ""),
            ("engine/memory/mod.rs", ""),
            ("dedup/mod.rs", ""),
            ("dedup/sqlite.rs", ""),
            ("handler/mod.rs", ""),
            ("message/mod.rs", ""),
            ("message/headers.rs", ""),
            ("middleware.rs", ""),
            ("pipeline/mod.rs", ""),
            ("producer.rs", ""),
            ("config/mod.rs", ""),
            ("app/mod.rs", ""),
            ("testing/mod.rs", ""),
            ("private.rs", ""),
            ("time.rs", ""),
        ]));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(
            found[0].starts_with(&format!("src/{path}:{line}: ")),
            "{}",
            found[0]
        );
        assert!(found[0].contains(part), "{}", found[0]);
    }

    #[track_caller]
    fn taken(path: &str, text: &str) {
        let found = violations(&snippet(&[
            (path, text),
            ("engine/mod.rs", "pub mod memory;"),
            ("engine/memory/mod.rs", ""),
            ("engine/sqlite/mod.rs", ""),
            ("handler/mod.rs", ""),
            ("message/mod.rs", ""),
            ("middleware.rs", ""),
            ("producer.rs", ""),
            ("time.rs", ""),
        ]));
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn a_word_may_not_know_a_contract() {
        refused(
            "outcome.rs",
            "\nuse crate::engine::Order;",
            2,
            "L0 (outcome) uses L1 (engine)",
        );
    }

    #[test]
    fn a_contract_may_not_know_the_producer() {
        refused(
            "handler/extract.rs",
            "use crate::producer::Producer;",
            1,
            "L4 (producer)",
        );
    }

    #[test]
    fn the_pipeline_may_not_know_an_engine() {
        refused(
            "pipeline/pump.rs",
            "use crate::engine::{Turn, sqlite::Sqlite};",
            1,
            "L2 (engine/sqlite)",
        );
        refused(
            "pipeline/pump.rs",
            "fn f() { crate::dedup::sqlite::open() }",
            1,
            "L2 (dedup/sqlite)",
        );
    }

    #[test]
    fn an_engine_may_not_know_the_pipeline_nor_another_engine() {
        refused(
            "engine/sqlite/writer.rs",
            "use crate::pipeline::Plan;",
            1,
            "L3 (pipeline)",
        );
        refused(
            "engine/sqlite/writer.rs",
            "use super::super::memory::Log;",
            1,
            "L2 (engine/memory)",
        );
        refused(
            "engine/sqlite/writer.rs",
            "use crate::dedup::sqlite::X;",
            1,
            "L2 (dedup/sqlite)",
        );
    }

    #[test]
    fn a_contract_may_not_reexport_its_engine() {
        refused(
            "engine/contract.rs",
            "use super::memory::Memory;",
            1,
            "another L2",
        );
        refused(
            "dedup/mod.rs",
            "pub mod sqlite;\npub use sqlite::Store;",
            2,
            "L2 (dedup/sqlite)",
        );
        refused(
            "dedup/mod.rs",
            "mod sqlite;\nfn f() -> sqlite::Store {}",
            2,
            "L2 (dedup/sqlite)",
        );
    }

    #[test]
    fn only_the_wiring_names_engines() {
        refused(
            "app/mod.rs",
            "use crate::engine::memory::Memory;",
            1,
            "app/wiring.rs",
        );
        refused(
            "testing/mod.rs",
            "use crate::engine::sqlite::Sqlite;",
            1,
            "app/wiring.rs",
        );
        taken(
            "app/wiring.rs",
            "use crate::engine::{memory::Memory, sqlite};",
        );
    }

    #[test]
    fn only_generated_code_uses_private() {
        refused(
            "pipeline/mod.rs",
            "use crate::private::erase;",
            1,
            "generated code",
        );
    }

    #[test]
    fn a_name_is_taken_from_its_module_and_not_from_the_root() {
        refused("pipeline/mod.rs", "use crate::Producer;", 1, "root");
        taken("app/mod.rs", "fn f() { crate::handlers![a] }");
    }

    #[test]
    fn the_name_of_the_crate_is_the_crate() {
        refused("pipeline/mod.rs", "use go_queue::app::App;", 1, "L4 (app)");
        refused(
            "handler/registry.rs",
            "macro_rules! m { () => { $crate::app::App } }",
            1,
            "L4 (app)",
        );
    }

    #[test]
    fn a_module_of_the_crates_name_is_not_the_crate() {
        taken(
            "engine/memory/tasks.rs",
            "use crate::message::{Id, go_queue}; fn f() { go_queue::id() }",
        );
        refused(
            "message/mod.rs",
            "use crate::engine::go_queue; fn f() { go_queue::id() }",
            1,
            "L1 (engine)",
        );
    }

    #[test]
    fn every_use_of_a_group_is_seen() {
        refused(
            "pipeline/mod.rs",
            "use crate::{engine::{self, Turn}, handler::Handle,\n  time::{Clock}, producer::Producer as P};",
            2,
            "L4 (producer)",
        );
    }

    #[test]
    fn an_inline_module_counts_its_supers_right() {
        refused(
            "middleware.rs",
            "mod inner { use super::super::app::App; }",
            1,
            "L4 (app)",
        );
        taken("middleware.rs", "struct S; mod inner { use super::S; }");
    }

    #[test]
    fn downwards_and_sideways_is_taken() {
        taken(
            "middleware.rs",
            "use crate::handler::Handle; use crate::time::Clock;",
        );
        taken(
            "pipeline/pump.rs",
            "use super::table::Table; use crate::engine::Receive;",
        );
        taken(
            "engine/memory/tasks.rs",
            "use super::Memory; use crate::engine::Engine;",
        );
        taken("producer.rs", "use crate::handler::FromContext;");
    }

    #[test]
    fn tests_comments_and_texts_do_not_count() {
        taken("time.rs", "#[cfg(test)] mod tests { use crate::app::App; }");
        taken(
            "time.rs",
            "#[cfg(all(test, feature = \"sqlite\"))]\n#[doc(hidden)] fn f() { crate::app::f() }",
        );
        taken(
            "time.rs",
            "#[cfg(test)] use crate::app::App;\nuse crate::message::Id;",
        );
        taken(
            "time.rs",
            "/// See [`App`](crate::app::App).\nfn f() { g(\"crate::app::App\") } // crate::app",
        );
    }

    #[test]
    fn what_follows_a_test_module_does_count() {
        refused(
            "time.rs",
            "#[cfg(test)] mod tests { }\nuse crate::app::App;",
            2,
            "L4 (app)",
        );
    }

    #[test]
    fn a_module_that_is_in_no_layer_is_refused() {
        refused("stuff.rs", "", 1, "no layer");
    }
}

mod habit_rules {
    use super::{habits, snippet};

    #[test]
    fn a_static_with_state_is_refused_and_a_table_is_taken() {
        let bad = snippet(&[(
            "app/mod.rs",
            "static TABLE: &[&str] = &[];\n\
             static COUNT: AtomicU64 = AtomicU64::new(0);\n\
             thread_local! { static HERE: u8 = 0 }\n\
             static ONCE: std::sync::OnceLock<u8> = std::sync::OnceLock::new();\n\
             fn f(x: &'static AtomicU64) {}",
        )]);
        let found = habits::statics_with_state(&bad);
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(
            found[0].starts_with("src/app/mod.rs:2: `COUNT`"),
            "{}",
            found[0]
        );
        assert!(found[1].starts_with("src/app/mod.rs:3: "), "{}", found[1]);
        assert!(
            found[2].starts_with("src/app/mod.rs:4: `ONCE`"),
            "{}",
            found[2]
        );
    }

    #[test]
    fn an_empty_name_is_refused() {
        let bad = snippet(&[
            (
                "app/mod.rs",
                "struct QueueManager;\nenum Implicit {}\ntrait ReadUtils {}\ntype X = u8;\nmod helper {}",
            ),
            ("app/common.rs", ""),
        ]);
        let found = habits::empty_names(&bad);
        let lines: Vec<_> = found
            .iter()
            .map(|v| v.split(": ").next().expect("a place"))
            .collect();
        assert_eq!(
            lines,
            [
                "src/app/mod.rs:1",
                "src/app/mod.rs:3",
                "src/app/mod.rs:5",
                "src/app/common.rs:1"
            ],
            "{found:#?}"
        );
    }

    #[test]
    fn a_machine_path_is_refused_even_in_a_comment() {
        // Put together, so that a search for such paths does not find this line.
        let text = format!(
            "// see {}tmp/x\nfn f() {{ open(\"{}home/me/data\") }}\nfn g() {{ open(\"data/x\") }}",
            '/', '/'
        );
        let found = habits::machine_paths(&snippet(&[("app/mod.rs", &text)]));
        assert_eq!(found.len(), 2, "{found:#?}");
    }
}
