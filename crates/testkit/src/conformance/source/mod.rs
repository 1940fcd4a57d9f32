//! The contract of a source as cases.
//!
//! | room | what its cases hold a source to |
//! |---|---|
//! | [`discover`] | the selection, and nothing beyond it |
//! | [`snapshot`] | chunks tile a table; one value in every form |
//! | [`stream`] | the order, the ranges, resumption, acknowledging |
//! | [`window`] | chunks and stream together give each row exactly once |
//! | [`versions`] | rows by a version column, where that is offered |
//! | [`life`] | opening, settling, dropping |

pub mod discover;
pub mod life;
pub mod snapshot;
pub mod stream;
mod support;
pub mod versions;
pub mod window;

use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use syncline_core::{Carry, Source, TableSchema};

use super::replica::Decode;
use super::report::{self, Case, Report};
use super::tables::{Row, Standard, Write};

/// What a source under test has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceOffers {
    /// Whether tables without a key can be streamed.
    pub keyless: bool,
    /// Whether the system has a truncate that its stream tells apart from deletes.
    pub truncate: bool,
    /// Whether the stream tells every change as it happened. If not, it tells net changes: a row as it is now, or that it
    /// is gone, whether or not it was there before.
    pub every_change: bool,
    /// Whether a second writer may have a transaction open while others commit.
    pub open_transactions: bool,
}

/// Gives fresh databases of one system.
#[async_trait]
pub trait SourceHarness: Send + Sync {
    /// What the system offers.
    fn offers(&self) -> SourceOffers;

    /// How its values are carried in these cases.
    fn carry(&self) -> Carry;

    /// Into how many chunks `items` with 300 rows must be cut here at least, so that the cases about several chunks are about
    /// several.
    fn chunks_min(&self) -> usize {
        1
    }

    /// A fresh database with the standard tables (without `log` if keyless tables are not offered), all empty.
    async fn fixture(&self) -> Box<dyn SourceFixture>;
}

/// One fresh database.
#[async_trait]
pub trait SourceFixture: Decode {
    /// A source over it; each call is a process that has just started.
    fn source(&self) -> Arc<dyn Source>;

    /// The schema that holds the standard tables.
    fn schema(&self) -> String;

    /// Does writes in one transaction of the application.
    async fn write(&self, writes: &[Write]);

    /// Lets the system gather the statistics by which a source chooses how to cut, if it has such.
    async fn analyze(&self) {}

    /// Does writes in a transaction that stays open; only where it is offered.
    async fn write_open(&self, writes: &[Write]) -> Box<dyn OpenWrite>;

    /// Rows out of the family's bulk form: a chunk's whole stream. Only where the source gives chunks so.
    fn unbulk(&self, table: &TableSchema, form: &str, stream: &[u8]) -> RecordBatch {
        panic!("{} bytes of {form} for {}: this harness knows no bulk form", stream.len(), table.id)
    }

    /// The rows of a table, read by the harness's own code, in any order.
    async fn truth(&self, table: Standard) -> Vec<Row>;

    /// Names of everything that pipelines have left in the database: slots, publications, triggers, tables.
    async fn leftovers(&self) -> Vec<String>;
}

/// An open transaction of the application; dropped, it is rolled back.
#[async_trait]
pub trait OpenWrite: Send {
    /// Commits it.
    async fn commit(self: Box<Self>);
}

macro_rules! cases {
    ($($module:ident :: $name:ident),* $(,)?) => {
        vec![$(Case { name: concat!(stringify!($module), "::", stringify!($name)), run: |h| Box::pin($module::$name(h)) }),*]
    };
}

/// Every case.
#[must_use]
pub fn cases<'h>() -> Vec<Case<dyn SourceHarness + 'h>> {
    cases![
        discover::the_selection_is_kept,
        discover::what_matches_nothing_is_refused,
        discover::a_healthy_database_has_no_error,
        snapshot::chunks_tile_each_table,
        snapshot::a_snapshot_goes_on_after_its_ledger,
        snapshot::an_empty_table_is_cut_too,
        snapshot::values_are_the_same_in_every_form,
        snapshot::keys_without_a_row_are_left_out,
        stream::ranges_are_a_chain_of_states,
        stream::any_position_resumes,
        stream::what_is_not_acknowledged_comes_again,
        stream::what_is_acknowledged_is_gone_and_nothing_else,
        stream::a_large_transaction_is_whole,
        stream::truncates_are_told,
        stream::an_idle_source_reaches_its_target,
        stream::writes_to_other_tables_are_progress,
        stream::next_may_be_dropped,
        window::each_row_comes_exactly_once,
        window::each_row_comes_exactly_once_in_resumable_chunks,
        window::a_chunk_sees_what_was_streamed_before,
        versions::pages_give_each_row_once_in_order,
        versions::a_page_is_bounded_in_bytes,
        versions::states_are_those_of_the_rows,
        versions::the_nth_last_is_found,
        versions::a_column_of_other_values_is_refused,
        life::opening_is_idempotent,
        life::settled_waits_for_open_transactions,
        life::a_table_may_be_added,
        life::pipelines_do_not_disturb_each_other,
        life::dropping_leaves_nothing,
    ]
}

/// Runs every case and reports each.
pub async fn run_all(harness: &dyn SourceHarness) -> Report {
    run(harness, &cases()).await
}

/// Runs these cases.
pub async fn run<'h>(harness: &(dyn SourceHarness + 'h), cases: &[Case<dyn SourceHarness + 'h>]) -> Report {
    report::run_all(harness, cases).await
}
