//! The store through its public face: what is remembered, who may read it, and what is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use syncline_core::{
    Checkpoint, ChunkEntry, ErrorKind, Lane, PipelineName, Position, RowKey, TableId, TablePhase, TableState,
};
use syncline_store::{Asked, PipelineRecord, RunId, RunKind, RunOutcome, Store};

fn shop() -> PipelineName {
    PipelineName::new("shop").unwrap()
}

fn record() -> PipelineRecord {
    PipelineRecord {
        name: shop(),
        source_url: "postgres://u:hunter2@a/shop".into(),
        destination_url: "postgres://u:hunter3@b/shop".into(),
        source_address: "a:5432/shop".into(),
        destination_address: "b:5432/shop".into(),
        config: json!({"password": "hunter4", "tables": ["public.*"]}),
        updated_at: 5,
    }
}

fn checkpoint() -> Checkpoint {
    let orders = TableId::new("public", "or\"ders");
    let chunk = ChunkEntry { range: "r".into(), mark: "1:2:".into(), rows: 3 };
    let state = TableState {
        phase: TablePhase::Closing,
        generation: 2,
        chunks: BTreeMap::from([(0, chunk.clone()), (7, chunk)]),
        rereads: BTreeSet::from([RowKey(Box::from([1, 2, 255]))]),
        parts: syncline_core::Parts::default(),
    };
    Checkpoint {
        lanes: BTreeMap::from([
            (Lane::Main, Position::from_u64(9)),
            (Lane::Table(orders.clone()), Position::start()),
        ]),
        tables: BTreeMap::from([(orders, state)]),
        origin: Some("slot".into()),
        letters: BTreeMap::new(),
    }
}

fn filled(dir: &Path) -> Store {
    let store = Store::open(dir).unwrap();
    store.save_pipeline(&record()).unwrap();
    store.save_checkpoint(&shop(), &checkpoint()).unwrap();
    let run = store.begin_run(&shop(), RunKind::Sync, 1).unwrap();
    store.save_status(&shop(), run, &json!({"phase": "stream"})).unwrap();
    store
}

#[test]
fn what_was_saved_is_found_by_another_handle_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    let other = Store::open(dir.path()).unwrap();
    assert_eq!(other.pipeline(&shop()).unwrap(), Some(record()));
    assert_eq!(other.pipelines().unwrap(), [record()]);
    assert_eq!(other.checkpoint(&shop()).unwrap(), Some(checkpoint()));
    other.save_pipeline(&PipelineRecord { updated_at: 6, ..record() }).unwrap();
    drop((store, other));
    let again = Store::open(dir.path()).unwrap();
    assert_eq!(again.pipeline(&shop()).unwrap().unwrap().updated_at, 6);
    assert_eq!(again.pipeline(&PipelineName::new("other").unwrap()).unwrap(), None);
    assert_eq!(again.journal_dir(&shop()), dir.path().join("journals/shop"));
}

#[test]
fn a_run_is_running_until_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    let status = store.status(&shop()).unwrap().unwrap();
    assert!(status.running && status.pid == std::process::id());
    assert_eq!(status.status, json!({"phase": "stream"}));
    store.end_run(status.run, RunOutcome::Failed, Some("disk full"), &json!({"applied": 3})).unwrap();
    assert!(!store.status(&shop()).unwrap().unwrap().running);
    let second = store.begin_run(&shop(), RunKind::Sync, 2).unwrap();
    let runs = store.runs(&shop(), 10).unwrap();
    assert_eq!(runs.iter().map(|run| run.id).collect::<Vec<_>>(), [second, status.run]);
    assert_eq!(runs[1].outcome, Some(RunOutcome::Failed));
    assert_eq!(runs[1].error.as_deref(), Some("disk full"));
    assert_eq!(runs[1].summary, Some(json!({"applied": 3})));
    assert_eq!(store.runs(&shop(), 1).unwrap().len(), 1);
}

#[test]
fn a_run_whose_process_was_killed_is_not_running() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    let connection = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    connection.execute("UPDATE runs SET process_start = process_start - 1", []).unwrap();
    assert!(!store.status(&shop()).unwrap().unwrap().running);
}

#[test]
fn old_runs_are_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for n in 0..1005 {
        store.begin_run(&shop(), RunKind::Sync, n).unwrap();
    }
    let runs = store.runs(&shop(), usize::MAX).unwrap();
    assert_eq!((runs.len(), runs[0].started_at), (1000, 1004));
}

#[test]
fn only_the_owner_can_read_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("state.db"), b"").unwrap();
    std::fs::set_permissions(state.join("state.db"), PermissionsExt::from_mode(0o644)).unwrap();
    let _store = filled(&state);
    let mode = |name: &str| std::fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o777;
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    let made = dir.path().join("made");
    Store::open(&made).unwrap();
    assert_eq!(std::fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn secrets_do_not_show_in_debug() {
    assert!(!format!("{:?}", record()).contains("hunter"));
}

#[test]
fn forgetting_a_pipeline_leaves_nothing_of_it_and_all_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    let other = PipelineName::new("other").unwrap();
    store.save_pipeline(&PipelineRecord { name: other.clone(), ..record() }).unwrap();
    std::fs::create_dir_all(store.journal_dir(&shop())).unwrap();
    std::fs::write(store.journal_dir(&shop()).join("x"), b"x").unwrap();
    std::fs::create_dir_all(store.journal_dir(&other)).unwrap();
    store.forget(&shop()).unwrap();
    store.forget(&shop()).unwrap();
    assert_eq!(store.pipeline(&shop()).unwrap(), None);
    assert_eq!(store.checkpoint(&shop()).unwrap(), None);
    assert_eq!(store.status(&shop()).unwrap(), None);
    assert!(store.runs(&shop(), 10).unwrap().is_empty());
    assert!(!store.journal_dir(&shop()).exists());
    assert!(store.pipeline(&other).unwrap().is_some() && store.journal_dir(&other).exists());
}

#[test]
fn many_handles_write_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let write = |n: u8| {
        let store = Store::open(dir.path()).unwrap();
        let name = PipelineName::new(format!("p{n}")).unwrap();
        for i in 0..50 {
            let run = store.begin_run(&name, RunKind::Sync, i).unwrap();
            store.save_status(&name, run, &json!(i)).unwrap();
        }
    };
    std::thread::scope(|scope| {
        for n in 0..4 {
            scope.spawn(move || write(n));
        }
    });
    let store = Store::open(dir.path()).unwrap();
    for n in 0..4 {
        let name = PipelineName::new(format!("p{n}")).unwrap();
        assert_eq!(store.runs(&name, 100).unwrap().len(), 50);
        assert_eq!(store.status(&name).unwrap().unwrap().status, json!(49));
    }
}

#[test]
fn a_new_directory_is_opened_by_many_at_once() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let together = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    together.wait();
                    Store::open(dir.path()).unwrap();
                });
            }
        });
    }
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    let connection = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("99") && error.remedy().is_some());
}

#[test]
fn a_damaged_file_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("state.db"), vec![7; 4096]).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.remedy().unwrap().contains("state.db"));
}

#[test]
fn a_directory_that_cannot_be_written_is_a_matter_of_this_machine() {
    // procfs takes no new directory from anybody, root included.
    let error = Store::open(Path::new("/proc/syncline")).unwrap_err();
    assert!(error.to_string().contains("/proc/syncline"), "{error}");
    assert!(error.remedy().is_some());
}

#[test]
fn a_question_is_taken_once_and_its_answer_is_read_by_who_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (asking, running) = (Store::open(dir.path()).unwrap(), Store::open(dir.path()).unwrap());
    let (run, other) = (RunId(7), RunId(8));
    assert_eq!(running.take_ask(run).unwrap(), None);
    let first = asking.ask(run, &json!({ "n": 1 })).unwrap();
    let second = asking.ask(run, &json!({ "n": 2 })).unwrap();
    assert_eq!(running.take_ask(other).unwrap(), None, "it was not asked");
    assert_eq!(running.take_ask(run).unwrap(), Some((first, json!({ "n": 1 }))));
    assert_eq!((asking.asked(first).unwrap(), asking.asked(second).unwrap()), (Asked::Taken, Asked::Waiting));
    running.answer(first, &json!("done")).unwrap();
    assert_eq!(asking.asked(first).unwrap(), Asked::Answered(json!("done")));
    asking.forget_ask(first).unwrap();
    asking.forget_ask(second).unwrap();
    assert_eq!(running.take_ask(run).unwrap(), None, "it was taken back");
    running.answer(second, &json!("late")).unwrap();
}
