//! Tables whose log has a hole: found, marked, and captured anew.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};
use syncline_core::{PipelineName, Result, StreamRequest, TableSchema};

use super::super::super::connect::{open_reader, open_writer};
use super::super::super::error::During;
use super::{CAPTURED, Captured, add, captured, drop_triggers, find_log, hole, next_number};

/// A table that was lost is captured anew: whoever asked for [`whole`] before knows of its hole.
pub(super) fn check_known(conn: &Connection, request: &StreamRequest, table: &Captured) -> Result<()> {
    let pipeline = &request.pipeline;
    let wanted = request.tables.iter().find(|wanted| wanted.id.name == table.name);
    let why = match (&table.lost, wanted, hole(conn, pipeline, table)?) {
        (Some(_), Some(wanted), _) => return capture_anew(conn, pipeline, wanted, table),
        (Some(_), None, _) | (None, Some(_), None) => return Ok(()),
        (None, _, Some(why)) => why,
        (None, None, None) => "it was left out of the pipeline for a while".to_owned(),
    };
    mark_lost(conn, pipeline, table, &why)
}

/// Under another number: what the log still has of it came before the hole.
fn capture_anew(
    conn: &Connection,
    pipeline: &PipelineName,
    wanted: &TableSchema,
    table: &Captured,
) -> Result<()> {
    let number = next_number(conn, pipeline)?;
    drop_triggers(conn, pipeline, Some(table.number))?;
    let sql = format!("DELETE FROM {CAPTURED} WHERE pipeline = ?1 AND number = ?2");
    conn.execute(&sql, (pipeline.as_str(), table.number)).during("capturing a table anew")?;
    add(conn, pipeline, wanted, number)
}

fn mark_lost(conn: &Connection, pipeline: &PipelineName, table: &Captured, why: &str) -> Result<()> {
    drop_triggers(conn, pipeline, Some(table.number))?;
    let sql = format!("UPDATE {CAPTURED} SET lost = ?3 WHERE pipeline = ?1 AND number = ?2");
    conn.execute(&sql, (pipeline.as_str(), table.number, why)).during("marking a table as lost")?;
    Ok(())
}

/// Names of the tables whose log has no hole; those that have one are marked. `None` without a log.
pub(in crate::sqlite::source) fn whole(path: &Path, pipeline: &PipelineName) -> Result<Option<Vec<String>>> {
    let conn = open_reader(path)?;
    if find_log(&conn, pipeline)?.is_none() {
        return Ok(None);
    }
    let (mut names, mut holes) = (Vec::new(), Vec::new());
    for table in captured(&conn, pipeline)? {
        match hole(&conn, pipeline, &table)? {
            None => names.push(table.name),
            Some(why) => holes.push((table, why)),
        }
    }
    holes.retain(|(table, _)| table.lost.is_none());
    if !holes.is_empty() {
        let doing = "marking a table as lost";
        let mut writer = open_writer(path)?;
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate).during(doing)?;
        for (table, why) in &holes {
            mark_lost(&transaction, pipeline, table, why)?;
        }
        transaction.commit().during(doing)?;
    }
    Ok(Some(names))
}
