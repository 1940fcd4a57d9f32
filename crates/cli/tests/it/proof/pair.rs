//! Two PostgreSQL servers with a pipeline between them.

use std::time::{Duration, Instant};

use syncline_testkit::compare::postgres::{Comparison, Definitions};
use syncline_testkit::postgres::{Builder, Postgres};
use syncline_testkit::process::{Outcome, Running, Syncline};

use crate::process::{EndsWith, RUN_MAX, Room};

/// The database at the source.
pub(crate) const SHOP: &str = "shop";
/// The database at the destination.
pub(crate) const COPY: &str = "copy";
/// The pipeline.
pub(crate) const NAME: &str = "proof";

/// Everything of ours that can stand in a database; none of it may stay after `drop`.
const LEFT: &str = "SELECT string_agg(what, ', ') FROM (
    SELECT 'slot ' || slot_name AS what FROM pg_replication_slots WHERE slot_name LIKE 'syncline%'
    UNION ALL SELECT 'publication ' || pubname FROM pg_publication
    UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname ~ 'syncline'
    UNION ALL SELECT 'relation ' || relname FROM pg_class WHERE relname ~ 'syncline'
    UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgname ~ 'syncline'
    UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE proname ~ 'syncline'
    UNION ALL SELECT 'session ' || application_name FROM pg_stat_activity WHERE application_name ~ 'syncline') found";

/// Two servers, and the folder of a machine on which Syncline runs.
pub(crate) struct Pair {
    pub(crate) source: Postgres,
    pub(crate) destination: Postgres,
    pub(crate) room: Room,
}

impl Pair {
    /// Servers with an empty database each; `None` where PostgreSQL is not installed, which is said.
    pub(crate) async fn start() -> Option<Self> {
        Self::with_source(Postgres::builder()).await
    }

    /// As [`Pair::start`], with a source that was asked for something.
    pub(crate) async fn with_source(source: Builder) -> Option<Self> {
        Self::with(source, Postgres::builder()).await
    }

    /// As [`Pair::start`], with both servers asked for something.
    pub(crate) async fn with(source: Builder, destination: Builder) -> Option<Self> {
        let (source, destination) = (source.start()?, destination.start()?);
        source.create_database(SHOP).await;
        destination.create_database(COPY).await;
        Some(Self { source, destination, room: Room::new() })
    }

    /// `sync` of the pipeline, with more arguments.
    pub(crate) fn sync(&self, more: &[&str]) -> Syncline {
        let (source, destination) = (self.source.url(SHOP), self.destination.url(COPY));
        let base = ["sync", &source, &destination, "--name", NAME];
        self.room.syncline(&base.iter().chain(more).copied().collect::<Vec<_>>())
    }

    /// Runs `sync` to its end.
    pub(crate) fn run(&self, more: &[&str]) -> Outcome {
        self.sync(more).run(RUN_MAX)
    }

    /// Runs `sync` to its end, which must be a good one.
    #[track_caller]
    pub(crate) fn run_well(&self, more: &[&str]) -> Outcome {
        self.run(more).ends_with(0)
    }

    /// Starts `sync --follow` and waits until every table streams.
    pub(crate) fn follow(&self, more: &[&str]) -> Running {
        let arguments: Vec<_> = more.iter().copied().chain(["--follow"]).collect();
        let mut running = self.sync(&arguments).start();
        self.room.wait_for_phase(NAME, "streaming", &mut running);
        running
    }

    /// Drops the pipeline.
    #[track_caller]
    pub(crate) fn drop_pipeline(&self) -> Outcome {
        self.room.run(&["drop", NAME]).ends_with(0)
    }

    /// Requires both databases to hold the same rows under the same definitions, foreign keys included.
    pub(crate) async fn assert_same(&self) {
        self.assert_equal(&Comparison::new().definitions(Definitions::ForeignKeys)).await;
    }

    /// Requires both databases to be equal as far as the comparison asks.
    pub(crate) async fn assert_equal(&self, comparison: &Comparison) {
        comparison.assert_equal((&self.source, SHOP), (&self.destination, COPY)).await;
    }

    /// What the source answers, as `psql` prints it.
    pub(crate) fn ask_source(&self, sql: &str) -> String {
        self.source.psql(SHOP, sql)
    }

    /// What the destination answers, as `psql` prints it.
    pub(crate) fn ask_destination(&self, sql: &str) -> String {
        self.destination.psql(COPY, sql)
    }

    /// Requires that nothing of ours is at the source. Sessions get a moment to end.
    #[track_caller]
    pub(crate) fn assert_nothing_at_source(&self) {
        assert_eq!(left(|| self.ask_source(LEFT)), "", "left at the source");
    }

    /// Requires that nothing of ours is at either side. Sessions get a moment to end.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        self.assert_nothing_at_source();
        assert_eq!(left(|| self.ask_destination(LEFT)), "", "left at the destination");
    }
}

fn left(ask: impl Fn() -> String) -> String {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let found = ask();
        if found.is_empty() || Instant::now() > end {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until `holds`, for at most so long.
#[track_caller]
pub(crate) fn wait_until(what: &str, at_most: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + at_most;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
