//! Dead letters as rows beside the data.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row};
use syncline_core::{Letter, LetterId, Misfit, PipelineName, Position, Result, TableId};

use super::super::error::During;
use super::super::value::{our_number, sql_number};

const WRITING: &str = "writing dead letters";
const READING: &str = "reading dead letters";

const READ: &str = "SELECT id, schema_name, name, position, row_keys, reason, code, attempts, first_at_ms, last_at_ms, change
  FROM _syncline_letters WHERE pipeline = ?1";
const PUT: &str = "INSERT OR REPLACE INTO _syncline_letters(pipeline, id, schema_name, name, position, row_keys, reason,
  code, attempts, first_at_ms, last_at_ms, change) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";

/// Whether a file has a place for letters at all.
pub(super) fn exist(conn: &Connection) -> Result<bool> {
    conn.prepare("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = '_syncline_letters'")
        .and_then(|mut statement| statement.exists([]))
        .during(READING)
}

/// The letters of a pipeline.
pub(super) fn read(conn: &Connection, pipeline: &PipelineName) -> Result<BTreeMap<LetterId, Letter>> {
    let mut statement = conn.prepare_cached(READ).during(READING)?;
    let mut rows = statement.query([pipeline.as_str()]).during(READING)?;
    let mut letters = BTreeMap::new();
    while let Some(row) = rows.next().during(READING)? {
        let (id, letter) = letter(row)?;
        letters.insert(id, letter);
    }
    Ok(letters)
}

fn letter(row: &Row<'_>) -> Result<(LetterId, Letter)> {
    let get = |column| row.get::<_, Vec<u8>>(column).during(READING);
    let letter = Letter {
        table: TableId { schema: row.get(1).during(READING)?, name: row.get(2).during(READING)? },
        position: Position::from_bytes(get(3)?),
        keys: Letter::keys_from_bytes(&get(4)?)?,
        reason: row.get(5).during(READING)?,
        code: row.get(6).during(READING)?,
        attempts: row.get(7).during(READING)?,
        first_at_ms: row.get(8).during(READING)?,
        last_at_ms: row.get(9).during(READING)?,
        change: get(10)?.into(),
    };
    Ok((LetterId(our_number(row.get(0).during(READING)?)), letter))
}

/// Puts a letter there, in place of what stands under its number.
pub(super) fn put(conn: &Connection, pipeline: &str, id: LetterId, letter: &Letter) -> Result<()> {
    let number = sql_number(id.0);
    let sql = "SELECT schema_name, name FROM _syncline_letters WHERE pipeline = ?1 AND id = ?2";
    let owner = conn
        .prepare_cached(sql)
        .and_then(|mut statement| {
            let owner = |row: &Row<'_>| Ok(TableId { schema: row.get(0)?, name: row.get(1)? });
            statement.query_row((pipeline, number), owner).optional()
        })
        .during(WRITING)?;
    if owner.is_some_and(|owner| owner != letter.table) {
        return Err(Misfit(format!("dead letter {id} is another table's")).into());
    }
    let keys = letter.keys_to_bytes()?;
    let params = rusqlite::params![
        pipeline,
        number,
        letter.table.schema,
        letter.table.name,
        letter.position.as_bytes(),
        keys,
        letter.reason,
        letter.code,
        letter.attempts,
        letter.first_at_ms,
        letter.last_at_ms,
        letter.change.as_ref(),
    ];
    conn.prepare_cached(PUT).and_then(|mut statement| statement.execute(params)).during(WRITING).map(|_| ())
}

/// Removes a letter that is there.
pub(super) fn remove(conn: &Connection, pipeline: &str, id: LetterId) -> Result<()> {
    let sql = "DELETE FROM _syncline_letters WHERE pipeline = ?1 AND id = ?2";
    let gone =
        conn.prepare_cached(sql).and_then(|mut statement| statement.execute((pipeline, sql_number(id.0))));
    match gone.during(WRITING)? {
        1 => Ok(()),
        _ => Err(Misfit(format!("dead letter {id} is not in this checkpoint")).into()),
    }
}
