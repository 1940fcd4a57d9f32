//! Staging tables: temporary, kept in a session from load to load, emptied by each commit.
//!
//! Making one costs about a millisecond and rows in the server's catalogue, so it is made once per session. Its name
//! carries the fencing token, for whoever looks at a server's temporary tables.

use std::sync::Arc;

use syncline_core::Result;

use super::super::super::quote::ident;
use super::super::shape::Shape;
use super::PostgresLoad;

/// Staging tables kept in one session.
const STAGES_MAX: usize = 64;

/// What a staging table takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Changes: number, operation, mask, old key, row; values in the types they come in.
    Changes,
    /// Rows in the types they come in.
    Rows,
    /// Rows in the table's own types.
    Exact,
}

/// A staging table's quoted, qualified name.
pub(super) fn quoted(name: &str) -> String {
    format!("pg_temp.{}", ident(name))
}

/// A staging table as COPY names it.
pub(super) fn copy_target(name: &str) -> String {
    quoted(name)
}

fn columns(shape: &Shape, form: Form) -> String {
    let rows = shape.columns.iter().enumerate().map(|(number, column)| match form {
        Form::Exact => format!("c{number} {}", column.exact_type),
        Form::Changes | Form::Rows => format!("c{number} {}", column.stage_type),
    });
    if form != Form::Changes {
        return rows.collect::<Vec<_>>().join(", ");
    }
    let fixed = ["n int4", "op int2", "mask int4"].map(str::to_owned).into_iter();
    let old = shape.table.row_key.iter().enumerate();
    let old = old.map(|(place, &column)| format!("o{place} {}", shape.columns[column].stage_type));
    fixed.chain(old).chain(rows).collect::<Vec<_>>().join(", ")
}

impl PostgresLoad {
    /// An empty staging table of this form, in the load's transaction.
    pub(super) async fn stage(&mut self, shape: &Arc<Shape>, form: Form) -> Result<String> {
        self.flush().await?;
        let columns = columns(shape, form);
        if let Some(name) = self.lease.worker()?.stages.get(&columns).cloned() {
            if !self.stages_used.insert(name.clone()) {
                self.batch(shape, &format!("TRUNCATE {}", quoted(&name)), "emptying a staging table").await?;
            }
            return Ok(name);
        }
        self.make_room(shape).await?;
        let worker = self.lease.worker()?;
        let name = format!("syncline_{}_{}", self.pipeline.fence, worker.stages_made);
        worker.stages_made += 1;
        let create = format!("CREATE TEMP TABLE {} ({columns}) ON COMMIT DELETE ROWS", ident(&name));
        self.batch(shape, &create, "making a staging table").await?;
        self.lease.worker()?.stages.insert(columns, name.clone());
        self.stages_used.insert(name.clone());
        Ok(name)
    }

    /// Drops the staging tables that this load does not use, if there are too many.
    async fn make_room(&mut self, shape: &Arc<Shape>) -> Result<()> {
        let used = &self.stages_used;
        let stages = &self.lease.worker()?.stages;
        if stages.len() < STAGES_MAX {
            return Ok(());
        }
        let unused: Vec<String> =
            stages.values().filter(|name| !used.contains(*name)).map(|n| quoted(n)).collect();
        if unused.is_empty() {
            return Ok(());
        }
        self.batch(shape, &format!("DROP TABLE {}", unused.join(", ")), "dropping staging tables").await?;
        let used = self.stages_used.clone();
        self.lease.worker()?.stages.retain(|_, name| used.contains(name));
        Ok(())
    }
}
