//! Fence, checkpoint and delta as rows beside the data.
//!
//! Every statement of a delta must touch exactly the rows that [`syncline_core::Checkpoint::apply`] would; a test holds
//! the two against each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rusqlite::{Connection, OptionalExtension, Params, Row};
use syncline_core::{
    Change, Checkpoint, ChunkEntry, Delta, Error, ErrorKind, Holder, Lane, Parts, PipelineName, Position,
    Result, RowKey, TableId, TablePhase, TableState, checkpoint::Misfit,
};

use super::super::error::During;
use super::super::value::{our_number, sql_number};
use super::letters;

const DOING: &str = "writing the checkpoint";
const READING: &str = "reading the checkpoint";

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS _syncline_pipelines(name TEXT PRIMARY KEY, fence INTEGER NOT NULL, origin TEXT, holder TEXT);
CREATE TABLE IF NOT EXISTS _syncline_lanes(pipeline TEXT NOT NULL, lane TEXT NOT NULL, position BLOB NOT NULL,
  PRIMARY KEY (pipeline, lane));
CREATE TABLE IF NOT EXISTS _syncline_tables(pipeline TEXT NOT NULL, schema_name TEXT NOT NULL, name TEXT NOT NULL,
  phase TEXT NOT NULL, generation INTEGER NOT NULL, PRIMARY KEY (pipeline, schema_name, name));
CREATE TABLE IF NOT EXISTS _syncline_chunks(pipeline TEXT NOT NULL, schema_name TEXT NOT NULL, name TEXT NOT NULL,
  n INTEGER NOT NULL, key_range TEXT NOT NULL, mark TEXT NOT NULL, row_count INTEGER NOT NULL,
  PRIMARY KEY (pipeline, schema_name, name, n));
CREATE TABLE IF NOT EXISTS _syncline_rereads(pipeline TEXT NOT NULL, schema_name TEXT NOT NULL, name TEXT NOT NULL,
  row_key BLOB NOT NULL, PRIMARY KEY (pipeline, schema_name, name, row_key));
CREATE TABLE IF NOT EXISTS _syncline_parts(pipeline TEXT NOT NULL, schema_name TEXT NOT NULL, name TEXT NOT NULL,
  known TEXT NOT NULL, joining TEXT NOT NULL, PRIMARY KEY (pipeline, schema_name, name));
CREATE TABLE IF NOT EXISTS _syncline_letters(pipeline TEXT NOT NULL, id INTEGER NOT NULL, schema_name TEXT NOT NULL,
  name TEXT NOT NULL, position BLOB NOT NULL, row_keys BLOB NOT NULL, reason TEXT NOT NULL, code TEXT,
  attempts INTEGER NOT NULL, first_at_ms INTEGER NOT NULL, last_at_ms INTEGER NOT NULL, change BLOB NOT NULL,
  PRIMARY KEY (pipeline, id));
CREATE TABLE IF NOT EXISTS _syncline_indexes(pipeline TEXT NOT NULL, schema_name TEXT NOT NULL, name TEXT NOT NULL,
  index_name TEXT NOT NULL, sql TEXT NOT NULL, PRIMARY KEY (pipeline, schema_name, name, index_name));
";

const PER_PIPELINE: [&str; 7] = [
    "_syncline_lanes",
    "_syncline_tables",
    "_syncline_chunks",
    "_syncline_rereads",
    "_syncline_parts",
    "_syncline_letters",
    "_syncline_indexes",
];

/// Makes the bookkeeping if it is absent, and takes the next fencing token. To be called in a write transaction.
///
/// A new pipeline's token begins with the time in microseconds: a pipeline that was dropped and made again never reuses
/// one.
pub(super) fn raise_fence(conn: &Connection, pipeline: &PipelineName, holder: &Holder) -> Result<u64> {
    let doing = "taking the pipeline";
    conn.execute_batch(TABLES).during(doing)?;
    let holder = serde_json::to_string(holder)
        .map_err(|error| Error::bug("a holder cannot be written as JSON").with_source(error))?;
    conn.query_row(
        "INSERT INTO _syncline_pipelines(name, fence, holder)
         VALUES (?1, CAST(unixepoch('subsec') * 1000000 AS INTEGER), ?2)
         ON CONFLICT (name) DO UPDATE SET fence = fence + 1, holder = excluded.holder RETURNING fence",
        [pipeline.as_str(), &holder],
        |row| row.get(0),
    )
    .during(doing)
    .map(our_number)
}

/// Refuses an older token.
pub(super) fn check_fence(conn: &Connection, pipeline: &PipelineName, fence: u64) -> Result<()> {
    let doing = "checking the fencing token";
    let found: Option<i64> = conn
        .prepare_cached("SELECT fence FROM _syncline_pipelines WHERE name = ?1")
        .and_then(|mut statement| statement.query_row([pipeline.as_str()], |row| row.get(0)).optional())
        .during(doing)?;
    if found.map(our_number) == Some(fence) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Fenced, "another run has taken this pipeline")
        .with_remedy("run `syncline status` to see who; only one of the two may run"))
}

/// Whether a file has the bookkeeping at all.
pub(super) fn exists(conn: &Connection) -> Result<bool> {
    conn.prepare("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = '_syncline_pipelines'")
        .and_then(|mut statement| statement.exists([]))
        .during(READING)
}

/// Forgets a pipeline, and drops the bookkeeping with the last.
pub(super) fn forget(conn: &Connection, pipeline: &PipelineName) -> Result<()> {
    let doing = "forgetting the pipeline";
    conn.execute_batch(TABLES).during(doing)?;
    for table in PER_PIPELINE {
        let sql = format!("DELETE FROM {table} WHERE pipeline = ?1");
        conn.execute(&sql, [pipeline.as_str()]).during(doing)?;
    }
    conn.execute("DELETE FROM _syncline_pipelines WHERE name = ?1", [pipeline.as_str()]).during(doing)?;
    let left: i64 =
        conn.query_row("SELECT count(*) FROM _syncline_pipelines", [], |row| row.get(0)).during(doing)?;
    if left == 0 {
        for table in PER_PIPELINE.iter().chain(&["_syncline_pipelines"]) {
            conn.execute_batch(&format!("DROP TABLE {table}")).during(doing)?;
        }
    }
    Ok(())
}

/// The pipeline that writes a table of this name, if there is one.
pub(super) fn owner(conn: &Connection, table: &TableId) -> Result<Option<PipelineName>> {
    let sql = "SELECT pipeline FROM _syncline_tables WHERE name = ?1 COLLATE NOCASE LIMIT 1";
    let found: Option<String> =
        conn.query_row(sql, [&table.name], |row| row.get(0)).optional().during(READING)?;
    found.map(|name| PipelineName::new(&name)).transpose()
}

/// Who else writes a table of this name: another pipeline, or another schema's table of this one.
pub(super) fn other_owner(
    conn: &Connection,
    pipeline: &PipelineName,
    table: &TableId,
) -> Result<Option<String>> {
    conn.query_row(
        "SELECT CASE WHEN pipeline = ?1 THEN 'table ' || schema_name || '.' || name ELSE 'pipeline ' || pipeline END
         FROM _syncline_tables WHERE name = ?3 COLLATE NOCASE AND NOT (pipeline = ?1 AND schema_name = ?2) LIMIT 1",
        [pipeline.as_str(), &table.schema, &table.name],
        |row| row.get(0),
    )
    .optional()
    .during(READING)
}

/// The checkpoint of a pipeline. To be called in a transaction.
pub(super) fn read(conn: &Connection, pipeline: &PipelineName) -> Result<Checkpoint> {
    let origin = conn
        .query_row("SELECT origin FROM _syncline_pipelines WHERE name = ?1", [pipeline.as_str()], |row| {
            row.get(0)
        })
        .during(READING)?;
    let mut lanes = BTreeMap::new();
    each(conn, "SELECT lane, position FROM _syncline_lanes WHERE pipeline = ?1", pipeline, |row| {
        let lane: String = row.get(0).during(READING)?;
        let position: Vec<u8> = row.get(1).during(READING)?;
        lanes.insert(Lane::from_text(&lane)?, Position::from_bytes(position));
        Ok(())
    })?;
    let mut tables = BTreeMap::new();
    let sql = "SELECT schema_name, name, phase, generation FROM _syncline_tables WHERE pipeline = ?1";
    each(conn, sql, pipeline, |row| {
        let phase: String = row.get(2).during(READING)?;
        let state = TableState {
            phase: TablePhase::parse(&phase)?,
            generation: row.get(3).during(READING)?,
            chunks: BTreeMap::new(),
            rereads: BTreeSet::new(),
            parts: Parts::default(),
        };
        tables.insert(table_of(row)?, state);
        Ok(())
    })?;
    let owned = |tables: &mut BTreeMap<TableId, TableState>, row: &Row<'_>, add: &dyn Fn(&mut TableState)| {
        let table = table_of(row)?;
        let state = tables.get_mut(&table);
        add(state.ok_or_else(|| Error::conflict("the ledger names a table that is not the pipeline's"))?);
        Ok(())
    };
    let sql =
        "SELECT schema_name, name, n, key_range, mark, row_count FROM _syncline_chunks WHERE pipeline = ?1";
    each(conn, sql, pipeline, |row| {
        let n: u32 = row.get(2).during(READING)?;
        let (range, mark) = (row.get(3).during(READING)?, row.get(4).during(READING)?);
        let entry = ChunkEntry { range, mark, rows: our_number(row.get(5).during(READING)?) };
        owned(&mut tables, row, &|state| {
            state.chunks.insert(n, entry.clone());
        })
    })?;
    let sql = "SELECT schema_name, name, row_key FROM _syncline_rereads WHERE pipeline = ?1";
    each(conn, sql, pipeline, |row| {
        let key: Vec<u8> = row.get(2).during(READING)?;
        owned(&mut tables, row, &|state| {
            state.rereads.insert(RowKey(key.clone().into()));
        })
    })?;
    let sql = "SELECT schema_name, name, known, joining FROM _syncline_parts WHERE pipeline = ?1";
    each(conn, sql, pipeline, |row| {
        let parts = Parts { known: from_json(row, 2)?, joining: from_json(row, 3)? };
        owned(&mut tables, row, &|state| state.parts = parts.clone())
    })?;
    Ok(Checkpoint { lanes, tables, origin, letters: letters::read(conn, pipeline)? })
}

fn each(
    conn: &Connection,
    sql: &str,
    pipeline: &PipelineName,
    mut take: impl FnMut(&Row<'_>) -> Result<()>,
) -> Result<()> {
    let mut statement = conn.prepare_cached(sql).during(READING)?;
    let mut rows = statement.query([pipeline.as_str()]).during(READING)?;
    while let Some(row) = rows.next().during(READING)? {
        take(row)?;
    }
    Ok(())
}

fn from_json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T> {
    let text: String = row.get(column).during(READING)?;
    serde_json::from_str(&text).map_err(|error| {
        Error::conflict("the parts of a table in the bookkeeping cannot be read").with_source(error)
    })
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::bug("parts cannot be written as JSON").with_source(error))
}

fn table_of(row: &Row<'_>) -> Result<TableId> {
    Ok(TableId { schema: row.get(0).during(READING)?, name: row.get(1).during(READING)? })
}

/// Writes a delta. To be called in the transaction of the data; `loaded` is the number of rows loaded per table.
pub(super) fn apply(
    conn: &Connection,
    pipeline: &PipelineName,
    delta: &Delta,
    loaded: &HashMap<TableId, u64>,
) -> Result<()> {
    let writer = Writer { conn, pipeline: pipeline.as_str() };
    delta.changes.iter().try_for_each(|change| writer.change(change, loaded))
}

struct Writer<'a> {
    conn: &'a Connection,
    pipeline: &'a str,
}

impl Writer<'_> {
    fn run(&self, sql: &str, params: impl Params) -> Result<usize> {
        self.conn.prepare_cached(sql).and_then(|mut statement| statement.execute(params)).during(DOING)
    }

    fn change(&self, change: &Change, loaded: &HashMap<TableId, u64>) -> Result<()> {
        match change {
            Change::Advance { lane, from, to } => self.advance(lane, from, to),
            Change::Open { lane, at } => self.open(lane, at),
            Change::Close { lane, at } => self.close(lane, at),
            Change::Mark { table, phase, generation } => self.mark(table, *phase, *generation),
            Change::Chunk { table, generation, n, entry } => {
                let rows = loaded.get(table).copied().unwrap_or(entry.rows);
                self.chunk(table, *generation, *n, &ChunkEntry { rows, ..entry.clone() })
            }
            Change::Reset { table, generation } => self.reset(table, *generation),
            Change::AddReread { table, keys } => self.add_rereads(table, keys),
            Change::RemoveReread { table, keys } => self.remove_rereads(table, keys),
            Change::Origin(origin) => {
                let sql = "UPDATE _syncline_pipelines SET origin = ?2 WHERE name = ?1";
                self.run(sql, [self.pipeline, origin]).map(|_| ())
            }
            Change::Parts { table, parts } => self.parts(table, parts),
            Change::PutLetter { id, letter } => {
                self.owned(&letter.table)?;
                letters::put(self.conn, self.pipeline, *id, letter)
            }
            Change::RemoveLetter { id } => letters::remove(self.conn, self.pipeline, *id),
        }
    }

    fn advance(&self, lane: &Lane, from: &Position, to: &Position) -> Result<()> {
        let misfit = || Misfit(format!("lane {lane} does not stand at {from}"));
        let sql =
            "UPDATE _syncline_lanes SET position = ?4 WHERE pipeline = ?1 AND lane = ?2 AND position = ?3";
        let moved = self.run(sql, (self.pipeline, lane.to_text(), from.as_bytes(), to.as_bytes()))?;
        fits(moved == 1 && to >= from, misfit)
    }

    fn open(&self, lane: &Lane, at: &Position) -> Result<()> {
        let sql = "INSERT OR IGNORE INTO _syncline_lanes(pipeline, lane, position) VALUES (?1, ?2, ?3)";
        let opened = self.run(sql, (self.pipeline, lane.to_text(), at.as_bytes()))?;
        fits(opened == 1, || Misfit(format!("lane {lane} is open already")))
    }

    fn close(&self, lane: &Lane, at: &Position) -> Result<()> {
        let sql = "DELETE FROM _syncline_lanes WHERE pipeline = ?1 AND lane = ?2 AND position = ?3";
        let closed = self.run(sql, (self.pipeline, lane.to_text(), at.as_bytes()))?;
        fits(closed == 1, || Misfit(format!("lane {lane} does not stand at {at}")))
    }

    fn mark(&self, table: &TableId, phase: TablePhase, generation: u32) -> Result<()> {
        let sql = "INSERT INTO _syncline_tables(pipeline, schema_name, name, phase, generation)
                   VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (pipeline, schema_name, name)
                   DO UPDATE SET phase = excluded.phase, generation = excluded.generation";
        self.run(sql, (self.pipeline, &table.schema, &table.name, phase.as_str(), generation))?;
        if phase == TablePhase::Consistent {
            self.clear("_syncline_chunks", table)?;
            self.nothing_joins(table)?;
        }
        Ok(())
    }

    fn nothing_joins(&self, table: &TableId) -> Result<()> {
        let sql = "UPDATE _syncline_parts SET joining = '[]' WHERE pipeline = ?1 AND schema_name = ?2 AND name = ?3";
        self.run(sql, (self.pipeline, &table.schema, &table.name)).map(|_| ())
    }

    fn parts(&self, table: &TableId, parts: &Parts) -> Result<()> {
        self.owned(table)?;
        let sql = "INSERT OR REPLACE INTO _syncline_parts(pipeline, schema_name, name, known, joining)
                   VALUES (?1, ?2, ?3, ?4, ?5)";
        let (known, joining) = (json(&parts.known)?, json(&parts.joining)?);
        self.run(sql, (self.pipeline, &table.schema, &table.name, known, joining)).map(|_| ())
    }

    fn clear(&self, of: &str, table: &TableId) -> Result<()> {
        let sql = format!("DELETE FROM {of} WHERE pipeline = ?1 AND schema_name = ?2 AND name = ?3");
        self.run(&sql, (self.pipeline, &table.schema, &table.name)).map(|_| ())
    }

    fn chunk(&self, table: &TableId, generation: u32, n: u32, entry: &ChunkEntry) -> Result<()> {
        let present = self.generation(table)?;
        fits(present.is_some(), || Misfit(format!("table {table} is not in this checkpoint")))?;
        let old = || Misfit(format!("generation {generation} of table {table} is not the current one"));
        fits(present == Some(generation), old)?;
        let sql = "INSERT OR IGNORE INTO _syncline_chunks(pipeline, schema_name, name, n, key_range, mark, row_count)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let rows = sql_number(entry.rows);
        let params = (self.pipeline, &table.schema, &table.name, n, &entry.range, &entry.mark, rows);
        let added = self.run(sql, params)?;
        fits(added == 1, || Misfit(format!("chunk {n} of table {table} is loaded already")))
    }

    fn generation(&self, table: &TableId) -> Result<Option<u32>> {
        let sql =
            "SELECT generation FROM _syncline_tables WHERE pipeline = ?1 AND schema_name = ?2 AND name = ?3";
        self.conn
            .prepare_cached(sql)
            .and_then(|mut statement| {
                let params = (self.pipeline, &table.schema, &table.name);
                statement.query_row(params, |row| row.get(0)).optional()
            })
            .during(DOING)
    }

    fn reset(&self, table: &TableId, generation: u32) -> Result<()> {
        let sql = "UPDATE _syncline_tables SET generation = ?4, phase = ?5
                   WHERE pipeline = ?1 AND schema_name = ?2 AND name = ?3 AND generation = ?4 - 1";
        let phase = TablePhase::Snapshot.as_str();
        let raised = self.run(sql, (self.pipeline, &table.schema, &table.name, generation, phase))?;
        fits(raised == 1, || Misfit(format!("table {table} is not at the generation before")))?;
        self.clear("_syncline_chunks", table)?;
        self.clear("_syncline_rereads", table)?;
        self.clear("_syncline_letters", table)?;
        self.nothing_joins(table)
    }

    fn owned(&self, table: &TableId) -> Result<()> {
        let present = self.generation(table)?.is_some();
        fits(present, || Misfit(format!("table {table} is not in this checkpoint")))
    }

    fn add_rereads(&self, table: &TableId, keys: &[RowKey]) -> Result<()> {
        self.owned(table)?;
        let sql = "INSERT OR IGNORE INTO _syncline_rereads(pipeline, schema_name, name, row_key) VALUES (?1, ?2, ?3, ?4)";
        keys.iter().try_for_each(|key| {
            self.run(sql, (self.pipeline, &table.schema, &table.name, &*key.0)).map(|_| ())
        })
    }

    fn remove_rereads(&self, table: &TableId, keys: &[RowKey]) -> Result<()> {
        self.owned(table)?;
        let sql = "DELETE FROM _syncline_rereads
                   WHERE pipeline = ?1 AND schema_name = ?2 AND name = ?3 AND row_key = ?4";
        keys.iter().try_for_each(|key| {
            self.run(sql, (self.pipeline, &table.schema, &table.name, &*key.0)).map(|_| ())
        })
    }
}

fn fits(fits: bool, misfit: impl FnOnce() -> Misfit) -> Result<()> {
    if fits { Ok(()) } else { Err(misfit().into()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use syncline_core::{Letter, LetterId};

    use super::*;

    fn any_change() -> impl Strategy<Value = Change> {
        let table = (0_u8..2).prop_map(|n| TableId::new("main", format!("t{n}")));
        let lane = prop_oneof![Just(Lane::Main), table.clone().prop_map(Lane::Table)];
        let at = prop_oneof![Just(Position::start()), (0_u64..3).prop_map(Position::from_u64)];
        let phase =
            prop_oneof![Just(TablePhase::Snapshot), Just(TablePhase::Closing), Just(TablePhase::Consistent)];
        let keys = proptest::collection::vec((0_u8..3).prop_map(|n| RowKey(Box::new([n; 1]))), 0..3);
        prop_oneof![
            (lane.clone(), at.clone(), at.clone()).prop_map(|(lane, from, to)| Change::Advance {
                lane,
                from,
                to
            }),
            (lane.clone(), at.clone()).prop_map(|(lane, at)| Change::Open { lane, at }),
            (lane, at).prop_map(|(lane, at)| Change::Close { lane, at }),
            (table.clone(), phase, 0_u32..3).prop_map(|(table, phase, generation)| Change::Mark {
                table,
                phase,
                generation
            }),
            (table.clone(), 0_u32..3, 0_u32..3).prop_map(|(table, generation, n)| {
                let entry = ChunkEntry { range: format!("r{n}"), mark: "m".into(), rows: 7 };
                Change::Chunk { table, generation, n, entry }
            }),
            (table.clone(), 0_u32..4).prop_map(|(table, generation)| Change::Reset { table, generation }),
            (table.clone(), keys.clone()).prop_map(|(table, keys)| Change::AddReread { table, keys }),
            (table.clone(), keys).prop_map(|(table, keys)| Change::RemoveReread { table, keys }),
            (table.clone(), 0_u64..3, 0_u32..2).prop_map(|(table, id, attempts)| Change::PutLetter {
                id: LetterId(id),
                letter: Letter {
                    table,
                    keys: vec![RowKey(Box::new([7])), RowKey(Box::new([]))],
                    position: Position::from_u64(id),
                    reason: "refused".to_owned(),
                    code: (attempts > 0).then(|| "SQLite 275".to_owned()),
                    attempts,
                    first_at_ms: 5,
                    last_at_ms: -6,
                    change: vec![1, 2].into(),
                }
            }),
            (0_u64..3).prop_map(|id| Change::RemoveLetter { id: LetterId(id) }),
            (table, 0_u8..3, 0_u8..3).prop_map(|(table, known, joining)| {
                let known = (0..known).map(|n| (n.to_string(), "shown".to_owned())).collect();
                let joining = (0..joining).map(|n| n.to_string()).collect();
                Change::Parts { table, parts: Parts { known, joining } }
            }),
            "[a-c]".prop_map(Change::Origin),
        ]
    }

    proptest! {
        #[test]
        fn rows_change_exactly_as_the_checkpoint_does(
            deltas in proptest::collection::vec(proptest::collection::vec(any_change(), 1..4), 1..30),
        ) {
            let mut conn = Connection::open_in_memory().unwrap();
            let pipeline = PipelineName::new("p").unwrap();
            let holder = Holder { host: "h".into(), boot_id: "b".into(), pid: 1, process_start: 1 };
            raise_fence(&conn, &pipeline, &holder).unwrap();
            let mut expected = Checkpoint::default();
            for changes in deltas {
                let delta = Delta::of(changes);
                let transaction = conn.transaction().unwrap();
                let done = apply(&transaction, &pipeline, &delta, &HashMap::new());
                prop_assert_eq!(done.is_ok(), expected.apply(&delta).is_ok(), "{:?}", delta);
                if done.is_ok() {
                    transaction.commit().unwrap();
                } else {
                    transaction.rollback().unwrap();
                }
                prop_assert_eq!(&read(&conn, &pipeline).unwrap(), &expected);
            }
        }
    }

    #[test]
    fn a_pipeline_made_again_has_a_higher_token() {
        let conn = Connection::open_in_memory().unwrap();
        let pipeline = PipelineName::new("p").unwrap();
        let holder = Holder { host: "h".into(), boot_id: "b".into(), pid: 1, process_start: 1 };
        let first = raise_fence(&conn, &pipeline, &holder).unwrap();
        assert_eq!(raise_fence(&conn, &pipeline, &holder).unwrap(), first + 1);
        assert_eq!(check_fence(&conn, &pipeline, first).unwrap_err().kind(), ErrorKind::Fenced);
        forget(&conn, &pipeline).unwrap();
        assert!(!exists(&conn).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(raise_fence(&conn, &pipeline, &holder).unwrap() > first + 1);
    }
}
