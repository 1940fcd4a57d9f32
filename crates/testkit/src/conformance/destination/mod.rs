//! The contract of a destination as cases.
//!
//! | room | what its cases hold a destination to |
//! |---|---|
//! | [`prepare`] | what happens to a table that is there before |
//! | [`chunk`] | chunks and their ledger |
//! | [`changes`] | the meaning of `Part::Changes`, its order, and the counts |
//! | [`checkpoint`] | the delta: all of it with the data, or nothing |
//! | [`letters`] | dead letters, and parts that are refused |
//! | [`fence`] | one holder, and what an older one can still do: nothing |
//! | [`life`] | finishing tables, forgetting pipelines |

mod build;
pub mod changes;
pub mod checkpoint;
pub mod chunk;
pub mod fence;
pub mod letters;
pub mod life;
pub mod prepare;
mod support;

use std::sync::Arc;

use arrow_array::ArrayRef;
use async_trait::async_trait;
use syncline_core::{Column, Destination, TableSchema};

use super::report::{self, Case, Report};
use super::tables::{Cell, Row, Standard};

/// How a family writes values in their carried form, by the harness's own code.
pub trait Encode: Send + Sync {
    /// The array of a column.
    fn encode(&self, column: &Column, cells: &[Cell]) -> ArrayRef;
}

/// Gives fresh databases of one system.
#[async_trait]
pub trait DestinationHarness: Send + Sync {
    /// A fresh, empty database.
    async fn fixture(&self) -> Box<dyn DestinationFixture>;
}

/// One fresh database.
#[async_trait]
pub trait DestinationFixture: Encode {
    /// A destination over it; each call is a process that has just started.
    fn destination(&self) -> Arc<dyn Destination>;

    /// A standard table as a source of the family discovers it, with all of its definition.
    fn table(&self, table: Standard) -> Arc<TableSchema>;

    /// Creates a standard table with these rows, as a user does.
    async fn create(&self, table: Standard, rows: &[Row]);

    /// Rows as one stream in the family's bulk form; `None` if the family has none.
    fn bulk(&self, _table: &TableSchema, _rows: &[Row]) -> Option<(&'static str, Vec<u8>)> {
        None
    }

    /// The rows of a table, read by the harness's own code, in any order; `None` if there is no such table.
    async fn truth(&self, table: Standard) -> Option<Vec<Row>>;

    /// For each row its key and a mark that differs whenever the row was written again; `None` if the system has none.
    async fn written(&self, table: Standard) -> Option<Vec<(Row, String)>>;

    /// Names of all bookkeeping that is in the database.
    async fn leftovers(&self) -> Vec<String>;
}

macro_rules! cases {
    ($($module:ident :: $name:ident),* $(,)?) => {
        vec![$(Case { name: concat!(stringify!($module), "::", stringify!($name)), run: |h| Box::pin($module::$name(h)) }),*]
    };
}

/// Every case.
#[must_use]
pub fn cases<'h>() -> Vec<Case<dyn DestinationHarness + 'h>> {
    cases![
        prepare::absent_and_empty_tables_need_no_mode,
        prepare::a_table_with_rows_is_refused_untouched,
        prepare::recreate_and_truncate_empty_it,
        prepare::keep_merges_chunks_into_it,
        prepare::columns_that_do_not_fit_are_refused,
        prepare::a_healthy_destination_has_no_error,
        chunk::a_chunk_is_in_the_ledger,
        chunk::chunks_load_in_parallel,
        chunk::a_chunk_loads_once,
        chunk::many_parts_are_one_commit,
        chunk::a_dropped_load_leaves_nothing,
        chunk::a_snapshot_begins_anew,
        chunk::values_arrive_as_they_are,
        chunk::pieces_of_bulk_are_one_stream,
        changes::each_operation_does_what_it_says,
        changes::absent_columns_come_from_the_old_key,
        changes::keys_are_exchanged_and_handed_on,
        changes::a_truncate_comes_first,
        changes::parts_apply_in_order,
        changes::unchanged_rows_are_counted_and_left_alone,
        changes::rows_without_an_origin_are_read_again,
        changes::equal_rows_without_a_key_are_taken_one_by_one,
        changes::unique_values_change_hands,
        changes::a_workload_agrees_with_its_model,
        changes::tables_of_one_load_commit_together,
        checkpoint::a_delta_that_does_not_fit_changes_nothing,
        checkpoint::everything_in_a_delta_is_remembered,
        checkpoint::a_load_may_be_only_a_delta,
        letters::letters_change_with_the_checkpoint,
        letters::a_part_that_is_refused_leaves_the_load_as_it_was,
        letters::a_large_part_that_is_refused_leaves_the_load_as_it_was,
        letters::rows_of_a_chunk_that_are_refused_leave_it_as_it_was,
        fence::an_older_holder_changes_nothing,
        fence::a_second_holder_is_refused_by_name,
        fence::a_released_pipeline_is_taken_with_a_higher_token,
        life::finishing_is_idempotent,
        life::pipelines_are_apart,
        life::a_held_pipeline_is_not_dropped,
        life::dropping_forgets_the_pipeline_and_keeps_its_tables,
    ]
}

/// Runs every case and reports each.
pub async fn run_all(harness: &dyn DestinationHarness) -> Report {
    run(harness, &cases()).await
}

/// Runs these cases.
pub async fn run<'h>(
    harness: &(dyn DestinationHarness + 'h),
    cases: &[Case<dyn DestinationHarness + 'h>],
) -> Report {
    report::run_all(harness, cases).await
}
