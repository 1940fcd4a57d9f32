//! Large parts: COPY into a staging table, sorted by key as the part is, then set statements.
//!
//! Rows that are new go by COPY straight into the table after the others, which costs half; if one of them is there
//! already, the part is taken back and all of it is staged.
//!
//! The join is chosen by the sizes we know, because the planner knows nothing of a staging table: nested loops along the
//! sorted keys while the part is small beside the table (0.3 s instead of 0.6 s for 100,000 changes of a million rows),
//! and the planner's choice, after ANALYZE, when it is not.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use syncline_core::{ChangeBatch, Error, Operation, Result};
use tokio_postgres::SimpleQueryMessage;

use super::super::encode::Reader;
use super::super::shape::Shape;
use super::PostgresLoad;
use super::changes::{Sorted, key_of};
use super::copy::{Copy, field_count, put_row};
use super::sql::{Op, Sql};
use super::stage::{self, Form};

/// New rows from this number on go straight into the table.
const STRAIGHT_ROWS_MIN: usize = 256;
/// A part with more than this fraction (1/n) of the table's rows is planned by the server.
const PLANNED_FRACTION: u64 = 4;
/// Below this nested loops are as good as anything.
const PLANNED_ROWS_MIN: u64 = 2_000;

const PLAN_FREELY: &str = "SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on; \
    SET LOCAL enable_seqscan = on; SET LOCAL work_mem = '64MB'";
const PLAN_LOOPS: &str = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; \
    SET LOCAL enable_seqscan = off";

/// Why staged statements failed.
enum Failure {
    /// A new row was there already, or a unique value was not free yet.
    Collision(tokio_postgres::Error),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// What the number of rows that a statement touched says.
#[derive(Clone, Copy)]
enum Counted {
    Not,
    Applied,
    Missing,
}

/// Wraps statements over a staging table of `rows` rows in the plan that fits.
pub(super) fn planned(statements: &str, stage: &str, rows: u64, shape: &Shape) -> String {
    let large = rows >= PLANNED_ROWS_MIN && rows.saturating_mul(PLANNED_FRACTION) > shape.rows_estimated;
    if large {
        format!("{PLAN_FREELY}; ANALYZE {stage}; {statements}; {PLAN_LOOPS}")
    } else {
        statements.to_owned()
    }
}

impl PostgresLoad {
    /// Writes a large part.
    pub(super) async fn write_staged(
        &mut self,
        shape: &Arc<Shape>,
        batch: &ChangeBatch,
        sorted: &Sorted,
    ) -> Result<()> {
        let straight = sorted.inserts.len() >= STRAIGHT_ROWS_MIN && shape.copies_directly();
        if !straight {
            let stage = self.stage(shape, Form::Changes).await?;
            return match self.stage_and_merge(shape, batch, sorted, &sorted.all, &stage).await {
                Ok(()) => Ok(()),
                Err(Failure::Other(error)) => Err(error),
                Err(Failure::Collision(error)) => Err(self.failed(shape, error, "merging changes").await),
            };
        }
        // Made before the savepoint, so that going back to it does not take the table away.
        let stage = self.stage(shape, Form::Changes).await?;
        self.batch(shape, "SAVEPOINT part", "writing changes").await?;
        let (applied, rereads, missing) = (self.tally.applied, self.tally.rereads, self.missing.len());
        match self.write_straight(shape, batch, sorted, &stage).await {
            Ok(()) => {
                self.verify(shape).await?;
                self.batch(shape, "RELEASE SAVEPOINT part", "writing changes").await
            }
            Err(Failure::Other(error)) => Err(error),
            Err(Failure::Collision(_)) => {
                self.batch(shape, "ROLLBACK TO SAVEPOINT part", "writing changes").await?;
                self.tally.applied = applied;
                self.tally.rereads = rereads;
                self.missing.truncate(missing);
                match self.stage_and_merge(shape, batch, sorted, &sorted.all, &stage).await {
                    Ok(()) => self.batch(shape, "RELEASE SAVEPOINT part", "writing changes").await,
                    Err(Failure::Other(error)) => Err(error),
                    Err(Failure::Collision(error)) => Err(self.failed(shape, error, "merging changes").await),
                }
            }
        }
    }

    /// Stages what is not new, merges it, then copies the new rows.
    async fn write_straight(
        &mut self,
        shape: &Arc<Shape>,
        batch: &ChangeBatch,
        sorted: &Sorted,
        stage: &str,
    ) -> Result<(), Failure> {
        let mut inserts = sorted.inserts.iter().peekable();
        let rest: Vec<usize> =
            sorted.all.iter().copied().filter(|row| inserts.next_if_eq(&row).is_none()).collect();
        if !rest.is_empty() {
            self.stage_and_merge(shape, batch, sorted, &rest, stage).await?;
        }
        let sql = format!("COPY {} FROM STDIN (FORMAT binary)", Sql::new(shape).copy_target());
        let readers: Vec<_> = batch.rows.columns().iter().map(Reader::new).collect();
        let copied =
            self.copy_rows(shape, &sql, &sorted.inserts, |out, row| put_row(out, &readers, row)).await?;
        self.tally.applied += copied;
        Ok(())
    }

    /// Stages rows and runs the set statements over them.
    async fn stage_and_merge(
        &mut self,
        shape: &Arc<Shape>,
        batch: &ChangeBatch,
        sorted: &Sorted,
        rows: &[usize],
        stage: &str,
    ) -> Result<(), Failure> {
        let sql = format!("COPY {} FROM STDIN (FORMAT binary)", stage::copy_target(stage));
        let encoder = ChangeEncoder::new(batch);
        let staged = self.copy_rows(shape, &sql, rows, |out, row| encoder.put(out, row)).await?;
        let statements = statements(shape, sorted, &stage::quoted(stage));
        let text: Vec<_> = statements.iter().map(|(statement, _)| statement.as_str()).collect();
        let settings_before = |text: &str| text.matches("; ").count();
        let plain = text.join("; ");
        let text = planned(&plain, &stage::quoted(stage), staged, shape);
        let skipped = if text.len() == plain.len() { 0 } else { settings_before(PLAN_FREELY) + 2 };
        let answers = self.lease.client()?.simple_query(&text).await;
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => return Err(self.collision(shape, error).await),
        };
        let counted = std::iter::repeat_n(Counted::Not, skipped)
            .chain(statements.iter().map(|(_, counted)| *counted))
            .chain(std::iter::repeat(Counted::Not));
        self.count(shape, batch, &answers, counted)?;
        Ok(())
    }

    fn count(
        &mut self,
        shape: &Shape,
        batch: &ChangeBatch,
        answers: &[SimpleQueryMessage],
        counted: impl Iterator<Item = Counted>,
    ) -> Result<()> {
        let mut counted = counted.peekable();
        for answer in answers {
            match (answer, counted.peek().copied()) {
                (SimpleQueryMessage::Row(row), Some(Counted::Missing)) => {
                    let number = row.get(0).and_then(|number| number.parse().ok());
                    let number: usize =
                        number.ok_or_else(|| Error::bug("a staged change came back without its number"))?;
                    self.missed(shape, key_of(batch, number)?);
                }
                (SimpleQueryMessage::CommandComplete(rows), now) => {
                    if let Some(Counted::Applied) = now {
                        self.tally.applied += rows;
                    }
                    counted.next();
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn copy_rows(
        &mut self,
        shape: &Arc<Shape>,
        sql: &str,
        rows: &[usize],
        put: impl Fn(&mut BytesMut, usize) -> Result<()>,
    ) -> Result<u64, Failure> {
        self.flush().await?;
        let copied = async {
            let mut copy = Copy::begin(self.lease.worker()?, sql).await.map_err(Failure::Collision)?;
            copy.put_header();
            for &row in rows {
                put(copy.gathered(), row).map_err(|error| error.with_table(&shape.table.id))?;
                copy.send_if_full().await.map_err(Failure::Collision)?;
            }
            copy.put_trailer();
            copy.finish().await.map_err(Failure::Collision)
        }
        .await;
        match copied {
            Err(Failure::Collision(error)) => Err(self.collision(shape, error).await),
            other => other,
        }
    }

    /// Tells a collision, which another way of writing may avoid, from every other error.
    async fn collision(&self, shape: &Arc<Shape>, error: tokio_postgres::Error) -> Failure {
        if error.code().is_some_and(|code| matches!(code.code(), "23505" | "23P01")) {
            Failure::Collision(error)
        } else {
            Failure::Other(self.failed(shape, error, "writing changes").await)
        }
    }
}

/// The set statements of a staged part, in the order of DESIGN §6 Load.
fn statements(shape: &Shape, sorted: &Sorted, stage: &str) -> Vec<(String, Counted)> {
    let sql = Sql::new(shape);
    let source = format!("{stage} s");
    let only = |op: Op| format!("s.op = {} AND ", op as u8);
    let mut statements = Vec::new();
    if !sorted.masked.is_empty() {
        if !sorted.moved.is_empty() {
            statements.push((sql.fill_moved(stage, &sorted.masks), Counted::Not));
        }
        if !shape.touchy.is_empty() {
            statements.push((sql.fill_touched(stage, &sorted.masks), Counted::Not));
        }
        // What stands where a moved row would go that must be read again is another row: a later move would be completed
        // from it.
        if !sorted.moved.is_empty() {
            let missing = "s.mask <> 0 AND s.o0 IS NOT NULL AND ";
            statements.push((sql.delete(&source, 'c', missing), Counted::Not));
        }
        statements.push((sql.take_missing(stage), Counted::Missing));
    }
    if !sorted.deletes.is_empty() {
        statements.push((sql.delete(&source, 'c', &only(Op::Delete)), Counted::Applied));
    }
    if !sorted.moved.is_empty() {
        statements.push((sql.delete(&source, 'o', "s.o0 IS NOT NULL AND "), Counted::Not));
    }
    if !shape.touchy.is_empty() {
        let complete = format!("{}s.mask = 0 AND ", only(Op::Write));
        statements.push((sql.delete_touched(&source, &complete), Counted::Not));
    }
    if !sorted.writes.is_empty() {
        let writes = format!("(SELECT * FROM {stage} WHERE op = {}) s", Op::Write as u8);
        statements.push((sql.merge(&writes, &sorted.masks), Counted::Applied));
    }
    statements
}

/// Puts changes as rows of a staging table.
struct ChangeEncoder<'a> {
    batch: &'a ChangeBatch,
    rows: Vec<Reader<'a>>,
    old: Vec<Reader<'a>>,
}

impl<'a> ChangeEncoder<'a> {
    fn new(batch: &'a ChangeBatch) -> Self {
        let old = batch.old.as_ref().map(|old| old.keys.columns().iter().map(Reader::new).collect());
        Self {
            batch,
            rows: batch.rows.columns().iter().map(Reader::new).collect(),
            old: old.unwrap_or_default(),
        }
    }

    fn put(&self, out: &mut BytesMut, row: usize) -> Result<()> {
        let key = self.batch.table.row_key.len();
        out.put_i16(field_count(3 + key + self.rows.len()));
        out.put_i32(4);
        out.put_i32(i32::try_from(row).map_err(|_| Error::bug("a part has more than 2^31 changes"))?);
        let op = if self.batch.operations[row] == Operation::Delete { Op::Delete } else { Op::Write };
        out.put_i32(2);
        out.put_i16(op as i16);
        out.put_i32(4);
        out.put_u32(self.batch.masks.as_ref().map_or(0, |masks| masks.of_row[row]));
        match self.batch.old_row(row) {
            Some(old) => self.old.iter().try_for_each(|reader| reader.append(old, out))?,
            None => (0..key).for_each(|_| out.put_i32(-1)),
        }
        self.rows.iter().try_for_each(|reader| reader.append(row, out))
    }
}
