//! Changing a checkpoint by a delta that fits.
//!
//! Each change is one statement that requires the number of rows it must touch ([`syncline_core::Checkpoint::apply`] is
//! the same table as a pure function). `syncline.require` raises an error in the server when it does not, so that the
//! commit can be sent together with the statements and still cannot succeed.

use bytes::{BufMut, BytesMut};
use syncline_core::{
    Change, ChunkEntry, Delta, Error, ErrorKind, Letter, LetterId, Misfit, PipelineName, Position, Result,
    RowKey, SchemaMap, TableId, TablePhase,
};

use super::flight::Param;

/// SQLSTATE that `syncline.require` raises.
pub(super) const MISFIT: &str = "SYM01";

const ADVANCE: &str = "WITH touched AS (UPDATE syncline.lanes SET position = $4 \
    WHERE pipeline = $1 AND lane = $2 AND position = $3 RETURNING 1) \
    SELECT syncline.require((SELECT count(*) FROM touched) = 1)";
const OPEN: &str = "WITH touched AS (INSERT INTO syncline.lanes (pipeline, lane, position) VALUES ($1, $2, $3) \
    ON CONFLICT DO NOTHING RETURNING 1) SELECT syncline.require((SELECT count(*) FROM touched) = 1)";
const CLOSE: &str = "WITH touched AS (DELETE FROM syncline.lanes \
    WHERE pipeline = $1 AND lane = $2 AND position = $3 RETURNING 1) \
    SELECT syncline.require((SELECT count(*) FROM touched) = 1)";
const MARK: &str = "INSERT INTO syncline.tables \
    (pipeline, schema, name, destination_schema, destination_name, phase, generation) \
    VALUES ($1, $2, $3, $4, $5, $6, $7) \
    ON CONFLICT (pipeline, schema, name) DO UPDATE SET phase = excluded.phase, generation = excluded.generation, \
        joining = CASE WHEN excluded.phase <> 'consistent' THEN tables.joining END";
const FORGET_CHUNKS: &str = "DELETE FROM syncline.chunks WHERE pipeline = $1 AND schema = $2 AND name = $3";
const CHUNK: &str = "WITH owner AS MATERIALIZED (SELECT 1 FROM syncline.tables WHERE pipeline = $1 AND schema = $2 \
        AND name = $3 AND phase IS NOT NULL AND generation = $4 FOR SHARE), \
    touched AS (INSERT INTO syncline.chunks (pipeline, schema, name, generation, n, range, mark, rows) \
        SELECT $1, $2, $3, $4, $5, $6, $7, $8 FROM owner ON CONFLICT DO NOTHING RETURNING 1) \
    SELECT syncline.require((SELECT count(*) FROM touched) = 1)";
const RESET: &str = "WITH touched AS (UPDATE syncline.tables SET phase = 'snapshot', generation = $4, joining = NULL \
        WHERE pipeline = $1 AND schema = $2 AND name = $3 AND phase IS NOT NULL AND generation = $4::int8 - 1 \
        RETURNING 1), \
    chunks AS (DELETE FROM syncline.chunks WHERE pipeline = $1 AND schema = $2 AND name = $3), \
    rereads AS (DELETE FROM syncline.rereads WHERE pipeline = $1 AND schema = $2 AND name = $3), \
    letters AS (DELETE FROM syncline.letters WHERE pipeline = $1 AND schema = $2 AND name = $3) \
    SELECT syncline.require((SELECT count(*) FROM touched) = 1)";
const ADD_REREAD: &str = "WITH owner AS MATERIALIZED (SELECT 1 FROM syncline.tables WHERE pipeline = $1 \
        AND schema = $2 AND name = $3 AND phase IS NOT NULL FOR SHARE), \
    added AS (INSERT INTO syncline.rereads (pipeline, schema, name, key) \
        SELECT $1, $2, $3, k FROM owner, unnest($4::bytea[]) AS k ON CONFLICT DO NOTHING) \
    SELECT syncline.require((SELECT count(*) FROM owner) = 1)";
const REMOVE_REREAD: &str = "WITH owner AS MATERIALIZED (SELECT 1 FROM syncline.tables WHERE pipeline = $1 \
        AND schema = $2 AND name = $3 AND phase IS NOT NULL FOR SHARE), \
    removed AS (DELETE FROM syncline.rereads r USING unnest($4::bytea[]) AS k \
        WHERE r.pipeline = $1 AND r.schema = $2 AND r.name = $3 AND r.key_hash = sha256(k)) \
    SELECT syncline.require((SELECT count(*) FROM owner) = 1)";
const PARTS: &str = "WITH touched AS (UPDATE syncline.tables SET parts = $4, joining = $5 \
        WHERE pipeline = $1 AND schema = $2 AND name = $3 AND phase IS NOT NULL RETURNING 1) \
    SELECT syncline.require((SELECT count(*) FROM touched) = 1)";
const ORIGIN: &str = "UPDATE syncline.pipelines SET origin = $2 WHERE name = $1";
const PUT_LETTER: &str = "WITH owner AS MATERIALIZED (SELECT 1 FROM syncline.tables WHERE pipeline = $1 \
        AND schema = $2 AND name = $3 AND phase IS NOT NULL FOR SHARE), \
    touched AS (INSERT INTO syncline.letters AS l (pipeline, schema, name, id, position, keys, reason, code, attempts, \
            first_at_ms, last_at_ms, change) \
        SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 FROM owner \
        ON CONFLICT (pipeline, id) DO UPDATE SET position = excluded.position, keys = excluded.keys, \
            reason = excluded.reason, code = excluded.code, attempts = excluded.attempts, \
            first_at_ms = excluded.first_at_ms, last_at_ms = excluded.last_at_ms, change = excluded.change \
            WHERE l.schema = excluded.schema AND l.name = excluded.name RETURNING 1) \
    SELECT syncline.require((SELECT count(*) FROM touched) = 1)";
const REMOVE_LETTER: &str = "WITH touched AS (DELETE FROM syncline.letters WHERE pipeline = $1 AND id = $2 RETURNING 1) \
    SELECT syncline.require((SELECT count(*) FROM touched) = 1)";
/// Shared, so that parallel chunks do not wait for each other; a new holder's `fence + 1` waits for all of them.
const FENCE: &str = "WITH held AS MATERIALIZED (SELECT 1 FROM syncline.pipelines WHERE name = $1 AND fence = $2 \
    FOR SHARE) SELECT syncline.require((SELECT count(*) FROM held) = 1)";

/// [`ADVANCE`] and [`FENCE`] in one statement: most commits have nothing else.
const ADVANCE_FENCED: &str = "WITH held AS MATERIALIZED (SELECT 1 FROM syncline.pipelines WHERE name = $1 AND fence = $5 \
        FOR SHARE), \
    touched AS (UPDATE syncline.lanes SET position = $4 WHERE pipeline = $1 AND lane = $2 AND position = $3 \
        AND EXISTS (SELECT FROM held) RETURNING 1) \
    SELECT syncline.require((SELECT count(*) FROM touched) = 1)";

/// One statement of a commit, and what it means if it does not fit.
pub(super) struct Step {
    pub(super) sql: &'static str,
    pub(super) params: Vec<Param>,
    pub(super) misfit: Refusal,
}

/// Why a step may be refused.
pub(super) enum Refusal {
    /// The delta does not fit.
    Misfit(String),
    /// The fencing token is not the newest.
    Fenced(PipelineName),
}

impl Refusal {
    /// The error of a step that did not touch what it must.
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Misfit(why) => Misfit(why).into(),
            Self::Fenced(pipeline) => Error::new(
                ErrorKind::Fenced,
                format!("pipeline `{pipeline}` has been taken over by another run"),
            )
            .with_remedy("run `syncline status` to see which"),
        }
    }
}

/// The steps of a commit with the check of the token, which comes last or together with the last.
pub(super) fn fenced(mut steps: Vec<Step>, pipeline: &PipelineName, token: u64) -> Vec<Step> {
    match steps.last_mut() {
        Some(last) if last.sql == ADVANCE => {
            last.sql = ADVANCE_FENCED;
            last.params.push(Param::int8(token.cast_signed()));
        }
        _ => steps.push(fence(pipeline, token)),
    }
    steps
}

/// The step that checks the token.
pub(super) fn fence(pipeline: &PipelineName, fence: u64) -> Step {
    Step {
        sql: FENCE,
        params: vec![Param::text(pipeline.as_str()), Param::int8(fence.cast_signed())],
        misfit: Refusal::Fenced(pipeline.clone()),
    }
}

/// The steps of a delta, in its order. `loaded`: rows of the load, for the ledger's entry of a chunk.
///
/// # Errors
/// A conflict for what cannot fit anywhere: a lane that would move back.
pub(super) fn steps(
    pipeline: &PipelineName,
    map: &SchemaMap,
    delta: &Delta,
    loaded: u64,
) -> Result<Vec<Step>> {
    let mut steps = Vec::with_capacity(delta.changes.len() + 1);
    for change in &delta.changes {
        append(&mut steps, pipeline, map, change, loaded)?;
    }
    Ok(steps)
}

/// The step that puts keys on a table's re-read list.
pub(super) fn add_reread(pipeline: &PipelineName, table: &TableId, keys: &[RowKey]) -> Step {
    let mut params = table_params(pipeline, table);
    params.push(key_array(keys));
    step(ADD_REREAD, params, format!("table {table} is not in this checkpoint"))
}

fn append(
    steps: &mut Vec<Step>,
    pipeline: &PipelineName,
    map: &SchemaMap,
    change: &Change,
    loaded: u64,
) -> Result<()> {
    let lane_params =
        |lane: &syncline_core::Lane| vec![Param::text(pipeline.as_str()), Param::text(&lane.to_text())];
    let place = |position: &Position| Param::bytes(position.as_bytes());
    let absent = |table: &TableId| format!("table {table} is not in this checkpoint");
    let step = match change {
        Change::Advance { lane, from, to } => {
            let misfit = format!("lane {lane} does not stand at {from}");
            if to < from {
                return Err(Misfit(misfit).into());
            }
            let mut params = lane_params(lane);
            params.extend([place(from), place(to)]);
            step(ADVANCE, params, misfit)
        }
        Change::Open { lane, at } => {
            let mut params = lane_params(lane);
            params.push(place(at));
            step(OPEN, params, format!("lane {lane} is open already"))
        }
        Change::Close { lane, at } => {
            let mut params = lane_params(lane);
            params.push(place(at));
            step(CLOSE, params, format!("lane {lane} does not stand at {at}"))
        }
        Change::Mark { table, phase, generation } => {
            if *phase == TablePhase::Consistent {
                steps.push(step(FORGET_CHUNKS, table_params(pipeline, table), absent(table)));
            }
            mark(pipeline, map, table, *phase, *generation)
        }
        Change::Chunk { table, generation, n, entry } => {
            chunk(pipeline, table, *generation, *n, &ChunkEntry { rows: loaded, ..entry.clone() })?
        }
        Change::Reset { table, generation } => {
            let mut params = table_params(pipeline, table);
            params.push(Param::int8(i64::from(*generation)));
            step(RESET, params, format!("table {table} is not at the generation before"))
        }
        Change::AddReread { table, keys } => add_reread(pipeline, table, keys),
        Change::RemoveReread { table, keys } => {
            let mut params = table_params(pipeline, table);
            params.push(key_array(keys));
            step(REMOVE_REREAD, params, absent(table))
        }
        Change::Origin(origin) => {
            let params = vec![Param::text(pipeline.as_str()), Param::text(origin)];
            step(ORIGIN, params, format!("pipeline {pipeline} is gone"))
        }
        Change::Parts { table, parts } => {
            let mut params = table_params(pipeline, table);
            params.extend([Param::text(&json(&parts.known)?), Param::text(&json(&parts.joining)?)]);
            step(PARTS, params, absent(table))
        }
        Change::PutLetter { id, letter } => put_letter(pipeline, *id, letter)?,
        Change::RemoveLetter { id } => {
            let params = vec![Param::text(pipeline.as_str()), letter_number(*id)];
            step(REMOVE_LETTER, params, format!("dead letter {id} is not in this checkpoint"))
        }
    };
    steps.push(step);
    Ok(())
}

fn mark(
    pipeline: &PipelineName,
    map: &SchemaMap,
    table: &TableId,
    phase: TablePhase,
    generation: u32,
) -> Step {
    let target = map.map(table);
    let mut params = table_params(pipeline, table);
    params.extend([
        Param::text(&target.schema),
        Param::text(&target.name),
        Param::text(phase.as_str()),
        Param::int8(i64::from(generation)),
    ]);
    step(MARK, params, format!("table {target} belongs to another pipeline"))
}

fn chunk(
    pipeline: &PipelineName,
    table: &TableId,
    generation: u32,
    n: u32,
    entry: &ChunkEntry,
) -> Result<Step> {
    let rows = i64::try_from(entry.rows).map_err(|_| Error::bug("a chunk of more than 2^63 rows"))?;
    let mut params = table_params(pipeline, table);
    params.extend([
        Param::int8(i64::from(generation)),
        Param::int8(i64::from(n)),
        Param::text(&entry.range),
        Param::text(&entry.mark),
        Param::int8(rows),
    ]);
    let misfit = format!(
        "chunk {n} of table {table} is loaded already, or generation {generation} is not the current one"
    );
    Ok(step(CHUNK, params, misfit))
}

fn put_letter(pipeline: &PipelineName, id: LetterId, letter: &Letter) -> Result<Step> {
    let mut params = table_params(pipeline, &letter.table);
    params.extend([
        letter_number(id),
        Param::bytes(letter.position.as_bytes()),
        Param::bytes(&letter.keys_to_bytes()?),
        Param::text(&letter.reason),
        letter.code.as_deref().map_or_else(|| Param::binary(None), Param::text),
        Param::int8(i64::from(letter.attempts)),
        Param::int8(letter.first_at_ms),
        Param::int8(letter.last_at_ms),
        Param::binary(Some(letter.change.clone())),
    ]);
    let table = &letter.table;
    let misfit = format!("table {table} is not in this checkpoint, or dead letter {id} is another table's");
    Ok(step(PUT_LETTER, params, misfit))
}

fn letter_number(id: LetterId) -> Param {
    Param::int8(id.0.cast_signed())
}

fn step(sql: &'static str, params: Vec<Param>, misfit: String) -> Step {
    Step { sql, params, misfit: Refusal::Misfit(misfit) }
}

fn table_params(pipeline: &PipelineName, table: &TableId) -> Vec<Param> {
    vec![Param::text(pipeline.as_str()), Param::text(&table.schema), Param::text(&table.name)]
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::bug("parts cannot be written as JSON").with_source(error))
}

/// Keys as `bytea[]` in its binary form.
fn key_array(keys: &[RowKey]) -> Param {
    const BYTEA: u32 = 17;
    let mut out = BytesMut::with_capacity(20 + keys.iter().map(|key| key.0.len() + 4).sum::<usize>());
    let length = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    out.put_i32(i32::from(!keys.is_empty()));
    out.put_i32(0);
    out.put_u32(BYTEA);
    if !keys.is_empty() {
        out.put_i32(length(keys.len()));
        out.put_i32(1);
    }
    for key in keys {
        out.put_i32(length(key.0.len()));
        out.put_slice(&key.0);
    }
    Param::binary(Some(out.freeze()))
}
