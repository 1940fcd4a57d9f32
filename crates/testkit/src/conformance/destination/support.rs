//! What the cases of a destination share: a held pipeline with a main lane, and loads over it.

use std::sync::Arc;
use std::time::Duration;

use syncline_core::{
    Change, Checkpoint, ChunkEntry, Delta, DestinationSession, Durable, Error, ErrorKind, Family, FinishStep,
    Holder, Lane, LoadIdentity, LoadKind, Part, PipelineName, Position, Prepare, Prepared, Result, SchemaMap,
    TablePhase, TableSchema,
};

use crate::conformance::patiently;
use crate::conformance::tables::{Row, Standard};

use super::DestinationFixture;
use super::build::{TextChange, changes, rows};

/// Where the main lane of a new pipeline stands.
pub(crate) const BEGINNING: u64 = 10;

/// A pipeline that is held.
pub(crate) struct Held<'a> {
    pub(crate) fixture: &'a dyn DestinationFixture,
    pub(crate) name: PipelineName,
    pub(crate) session: Arc<dyn DestinationSession>,
}

impl<'a> Held<'a> {
    /// Takes a pipeline as this process.
    pub(crate) async fn open(fixture: &'a dyn DestinationFixture, name: &str) -> Self {
        Self::open_as(fixture, name, &this_process()).await
    }

    /// Takes a pipeline as somebody.
    pub(crate) async fn open_as(fixture: &'a dyn DestinationFixture, name: &str, holder: &Holder) -> Self {
        let name = ok(PipelineName::new(name));
        let destination = fixture.destination();
        let map = SchemaMap::default();
        let opening = destination.open(&name, holder, &map);
        let session = ok(patiently("opening the destination", opening).await);
        Self { fixture, name, session }
    }

    /// Takes a new pipeline and gives it a main lane.
    pub(crate) async fn begin(fixture: &'a dyn DestinationFixture, name: &str) -> Self {
        let held = Self::open(fixture, name).await;
        held.note(vec![Change::Open { lane: Lane::Main, at: at(BEGINNING) }]).await;
        held
    }

    /// Gives the pipeline up and takes it as a process that has just started.
    pub(crate) async fn reopened(self) -> Self {
        self.session.close().await;
        let (fixture, name) = (self.fixture, self.name.as_str().to_owned());
        drop(self);
        Self::open(fixture, &name).await
    }

    pub(crate) fn family(&self) -> Family {
        self.fixture.destination().family()
    }

    pub(crate) fn table(&self, table: Standard) -> Arc<TableSchema> {
        self.fixture.table(table)
    }

    /// Commits only a delta.
    pub(crate) async fn note(&self, changes: Vec<Change>) {
        ok(self.load(LoadKind::Bookkeeping, Vec::new(), Delta::of(changes)).await);
    }

    pub(crate) async fn load(&self, kind: LoadKind, parts: Vec<Part>, delta: Delta) -> Result<Durable> {
        self.load_of(Lane::Main, kind, parts, delta).await
    }

    pub(crate) async fn load_of(
        &self,
        lane: Lane,
        kind: LoadKind,
        parts: Vec<Part>,
        delta: Delta,
    ) -> Result<Durable> {
        let identity = LoadIdentity { pipeline: self.name.clone(), lane, kind };
        patiently("a load", async {
            let mut load = self.session.begin(&identity).await?;
            for part in parts {
                load.write(part).await?;
            }
            load.commit(&delta).await
        })
        .await
    }

    /// Prepares a table and makes it the pipeline's.
    pub(crate) async fn own(&self, table: Standard, mode: Option<Prepare>) -> Prepared {
        let schema = self.table(table);
        let prepared = ok(patiently("preparing", self.session.prepare(&schema, mode)).await);
        let mark = Change::Mark { table: schema.id.clone(), phase: TablePhase::Snapshot, generation: 1 };
        self.note(vec![mark]).await;
        prepared
    }

    /// Makes a table the pipeline's, loads rows, and finishes it, so that changes may come.
    pub(crate) async fn ready(&self, table: Standard, content: &[Row]) {
        self.own(table, None).await;
        ok(self.chunk(table, 0, content).await);
        self.finish(table).await;
    }

    pub(crate) async fn finish(&self, table: Standard) {
        let schema = self.table(table);
        for step in [FinishStep::Key, FinishStep::Indexes] {
            ok(patiently("finishing", self.session.finish(&schema, step)).await);
        }
        let mark = Change::Mark { table: schema.id.clone(), phase: TablePhase::Consistent, generation: 1 };
        self.note(vec![mark]).await;
    }

    /// Loads rows as a chunk of the first generation.
    pub(crate) async fn chunk(&self, table: Standard, n: u32, content: &[Row]) -> Result<Durable> {
        let schema = self.table(table);
        let parts = vec![rows(self.fixture, &schema, content)];
        let kind = LoadKind::Chunk { table: schema.id.clone(), generation: 1, n };
        self.load(kind, parts, Delta::of(vec![chunk_entered(&schema, 1, n)])).await
    }

    /// Loads changes of one table, as the next move of the main lane.
    pub(crate) async fn change(&self, table: Standard, list: Vec<TextChange>) -> Result<Durable> {
        let part = changes(self.fixture, &self.table(table), list);
        self.move_main(vec![part]).await
    }

    /// Loads parts as the next move of the main lane.
    pub(crate) async fn move_main(&self, parts: Vec<Part>) -> Result<Durable> {
        let stands = self.checkpoint().await.lanes.get(&Lane::Main).and_then(Position::as_u64);
        let from = stands.unwrap_or_else(|| panic!("the pipeline has no main lane"));
        self.move_main_from(from, parts).await
    }

    /// As [`Held::move_main`], from where the case says that the lane stands.
    pub(crate) async fn move_main_from(&self, from: u64, parts: Vec<Part>) -> Result<Durable> {
        let (from, to) = (at(from), at(from + 1));
        let advance = Change::Advance { lane: Lane::Main, from: from.clone(), to: to.clone() };
        let delta = Delta { changes: vec![advance], reread_missing: true };
        self.load(LoadKind::Changes { from, to }, parts, delta).await
    }

    pub(crate) async fn checkpoint(&self) -> Checkpoint {
        ok(patiently("the checkpoint", self.session.checkpoint()).await)
    }

    /// Asserts what a table holds, as the harness's own code sees it.
    pub(crate) async fn assert_holds(&self, table: Standard, expected: &[Row]) {
        let mut found = truth(self.fixture, table).await;
        let mut expected = expected.to_vec();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "the rows of {}", table.name());
    }
}

/// The delta's entry of a chunk. How many rows it had, only the destination knows.
pub(crate) fn chunk_entered(table: &TableSchema, generation: u32, n: u32) -> Change {
    let entry = ChunkEntry { range: format!("range {n}"), mark: format!("mark {n}"), rows: 0 };
    Change::Chunk { table: table.id.clone(), generation, n, entry }
}

/// The rows of a table that must exist.
pub(crate) async fn truth(fixture: &dyn DestinationFixture, table: Standard) -> Vec<Row> {
    fixture.truth(table).await.unwrap_or_else(|| panic!("{} does not exist", table.name()))
}

pub(crate) fn at(number: u64) -> Position {
    Position::from_u64(number)
}

/// The value of what must succeed.
pub(crate) fn ok<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| panic!("{error:?}"))
}

/// The kind of the error of what must fail.
pub(crate) fn refused<T>(what: &str, result: Result<T, Error>) -> ErrorKind {
    match result {
        Ok(_) => panic!("{what} was not refused"),
        Err(error) => error.kind(),
    }
}

/// This process as a holder.
pub(crate) fn this_process() -> Holder {
    let stat = read("/proc/self/stat");
    // The name in parentheses may hold spaces; the start is the 20th field after it.
    let start = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19));
    Holder {
        host: read("/proc/sys/kernel/hostname").trim().to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
        pid: std::process::id(),
        process_start: start.and_then(|start| start.parse().ok()).unwrap_or_default(),
    }
}

/// A process of this host that has ended.
pub(crate) fn ended_process() -> Holder {
    let child = std::process::Command::new("true").spawn().and_then(|mut child| {
        child.wait()?;
        Ok(child.id())
    });
    let pid = child.unwrap_or_else(|error| panic!("cannot run `true`: {error}"));
    Holder { pid, process_start: 1, ..this_process() }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Opens a pipeline that is about to be released.
pub(crate) async fn open_when_released<'a>(fixture: &'a dyn DestinationFixture, name: &str) -> Held<'a> {
    let pipeline = ok(PipelineName::new(name));
    patiently("the release of the pipeline", async {
        loop {
            let destination = fixture.destination();
            match destination.open(&pipeline, &this_process(), &SchemaMap::default()).await {
                Ok(session) => return Held { fixture, name: pipeline, session },
                Err(error) if error.kind() == ErrorKind::Configuration => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    })
    .await
}
