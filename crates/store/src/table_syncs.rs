//! What is remembered of tables that are kept equal over requests. What it means is not known here.

use rusqlite::{OptionalExtension, params};
use serde_json::Value;
use syncline_core::{PipelineName, Result, TableId};

use crate::store::{Store, json, now_ms};

impl Store {
    /// What is remembered of a table of a pipeline.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn table_sync(&self, pipeline: &PipelineName, table: &TableId) -> Result<Option<Value>> {
        let sql = "SELECT memory FROM table_syncs WHERE pipeline = ?1 AND schema = ?2 AND name = ?3";
        self.with(|connection| {
            let key = params![pipeline.as_str(), table.schema, table.name];
            connection.query_row(sql, key, |row| json(row, 0)).optional()
        })
    }

    /// What is remembered of all tables of a pipeline, in name order.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn table_syncs(&self, pipeline: &PipelineName) -> Result<Vec<(TableId, Value)>> {
        let sql = "SELECT schema, name, memory FROM table_syncs WHERE pipeline = ?1 ORDER BY schema, name";
        self.with(|connection| {
            let row = |row: &rusqlite::Row<'_>| {
                Ok((TableId::new(row.get::<_, String>(0)?, row.get::<_, String>(1)?), json(row, 2)?))
            };
            connection.prepare(sql)?.query_map([pipeline.as_str()], row)?.collect()
        })
    }

    /// Remembers a table, in place of what was known of it.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn save_table_sync(&self, pipeline: &PipelineName, table: &TableId, memory: &Value) -> Result<()> {
        self.with(|connection| {
            connection.execute(
                "INSERT OR REPLACE INTO table_syncs (pipeline, schema, name, updated_at, memory) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![pipeline.as_str(), table.schema, table.name, now_ms(), memory.to_string()],
            )
        })?;
        Ok(())
    }
}
