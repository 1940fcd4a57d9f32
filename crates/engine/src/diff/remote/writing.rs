//! The answering end where it may write: a table sync's four requests, for a pipeline that the session holds.
//!
//! The other end has the token and the consent to write tables of this database, and no more than that: no text of a statement
//! is taken from it. Of a table's definition only names, plain types and the key are used.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use syncline_core::{
    Error, ManifestBounds, ManifestKey, ManifestPlace, Replica, Result, Severity, Source, TableSchema,
    Version,
};
use tokio_util::sync::CancellationToken;

use super::frame::malformed;
use super::holds::{Place, Writable};
use super::list::{self, List};
use super::message::{Finding, Open, PushAsk};
use super::session::{Answer, QUESTION_BYTES_MAX, as_body, compared, table_as_asked};
use super::types;
use crate::table_sync::{Held, Holding, LocalReplica, VersionSide};

/// Longest question of a session that holds a pipeline: a batch, which is one row if that is a large one.
pub(super) const PUSH_BYTES_MAX: usize = 256 << 20;
/// What a manifest may hold, whatever is asked.
const MANIFEST_ROWS_MAX: usize = 1_000_000;
pub(super) const MANIFEST_BYTES_MAX: usize = 64 << 20;
/// Tables of a pipeline.
const TABLES_MAX: usize = 100_000;

/// A session's way to write.
pub(super) struct Writing {
    writable: Writable,
    source: Arc<dyn Source>,
    held: Option<(Held, Place)>,
    /// Tables opened so far, and the one that is open.
    opened: u32,
    open: Option<OpenReplica>,
}

struct OpenReplica {
    number: u32,
    /// The shape in which rows come.
    left: Arc<TableSchema>,
    replica: LocalReplica,
}

impl Writing {
    pub(super) fn new(writable: Writable, source: Arc<dyn Source>) -> Self {
        Self { writable, source, held: None, opened: 0, open: None }
    }

    /// Ends when somebody has taken over what the session holds.
    pub(super) fn end(&self) -> Option<CancellationToken> {
        self.held.as_ref().map(|(_, place)| place.end.clone())
    }

    pub(super) fn question_bytes_max(&self) -> usize {
        if self.held.is_some() { PUSH_BYTES_MAX } else { QUESTION_BYTES_MAX }
    }

    /// Gives back what is held; in this order, so that whoever waits for the place finds the destination free.
    pub(super) async fn release(&mut self) {
        self.open = None;
        if let Some((held, place)) = self.held.take() {
            held.close().await;
            drop(place);
        }
    }

    pub(super) async fn answer(&mut self, ask: PushAsk, body: &[u8]) -> Result<Answer> {
        match ask {
            PushAsk::Check { schema_map } => {
                let tables = tables(body)?;
                let findings = self.writable.destination.check(&tables, &schema_map).await?;
                as_body(&findings.into_iter().map(told).collect::<Vec<_>>())
            }
            PushAsk::Hold { holding, by } => self.hold(holding, &by, body).await,
            PushAsk::BringIn { prepare } => {
                let table = Arc::new(plain(json_of(body)?)?);
                self.held()?.bring_in(&table, prepare).await?;
                Ok((Value::Null, Vec::new()))
            }
            PushAsk::Open { version } => self.open(version, body).await,
            PushAsk::State { table, range } => {
                let state = self.table(table)?.replica.state(&range).await?;
                Ok((json!(state), Vec::new()))
            }
            PushAsk::Manifest { table, range, rows_max, bytes_max } => {
                let bounds = ManifestBounds {
                    rows_max: rows_max.clamp(1, MANIFEST_ROWS_MAX),
                    bytes_max: bytes_max.clamp(1, MANIFEST_BYTES_MAX),
                };
                let after = (!body.is_empty()).then(|| ManifestPlace(body.into()));
                let manifest = self.table(table)?.replica.manifest(&range, after.as_ref(), bounds).await?;
                let mut list = List::default();
                for (key, Version(version)) in &manifest.rows {
                    list.push(key)?;
                    list.push(&version.to_le_bytes())?;
                }
                if let Some(ManifestPlace(next)) = &manifest.next {
                    list.push(next)?;
                }
                Ok((json!(manifest.next.is_some()), list.into_bytes()))
            }
            PushAsk::Upsert { table } => {
                let open = self.table(table)?;
                open.replica.upsert(&list::batch(body, &open.left)?).await?;
                Ok((Value::Null, Vec::new()))
            }
            PushAsk::Delete { table } => {
                let keys: Vec<ManifestKey> = list::items(body)?.into_iter().map(Into::into).collect();
                self.table(table)?.replica.delete(&keys).await?;
                Ok((Value::Null, Vec::new()))
            }
            PushAsk::Forget { holding } => self.forget(holding).await,
        }
    }

    async fn hold(&mut self, holding: Holding, by: &str, body: &[u8]) -> Result<Answer> {
        let tables = tables(body)?;
        self.release().await;
        let name = (self.writable.destination.address(), holding.pipeline.clone());
        let place = self.writable.holds.take(name, by).await?;
        let held = Held::open(&self.writable.destination, holding, &tables).await?;
        let answer = as_body(&held.tables().collect::<Vec<_>>())?;
        self.held = Some((held, place));
        Ok(answer)
    }

    /// Only what was made by a table sync.
    async fn forget(&mut self, holding: Holding) -> Result<Answer> {
        self.release().await;
        let pipeline = holding.pipeline.clone();
        let name = (self.writable.destination.address(), pipeline.clone());
        let _place = self.writable.holds.take(name, "").await?;
        Held::open(&self.writable.destination, holding, &[]).await?.close().await;
        self.writable.destination.drop_pipeline(&pipeline).await?;
        Ok((Value::Null, Vec::new()))
    }

    async fn open(&mut self, version: usize, body: &[u8]) -> Result<Answer> {
        let items = list::items(body)?;
        let [open, left] = items[..] else { return Err(malformed("a table is opened by both its sides")) };
        let open: Open = json_of(open)?;
        let left = Arc::new(plain(json_of(left)?)?);
        let columns = open.columns.len();
        let key_columns = open.key_columns;
        let fits = version < columns
            && key_columns > 0
            && left.columns.len() == columns
            && left.row_key.iter().copied().eq(0..key_columns);
        if !fits || !self.held()?.knows(&left.id) {
            return Err(malformed("a table that was not brought in"));
        }
        self.open = None;
        let compared = compared(&open)?;
        let right = Arc::new(table_as_asked(self.source.as_ref(), &open).await?);
        let source = Arc::clone(&self.source);
        let key = compared[..key_columns].to_vec();
        let right = VersionSide::new(source, right, compared, key_columns, version);
        self.opened = self.opened.wrapping_add(1);
        let (number, replica) = (self.opened, self.held()?.replica(right, Arc::clone(&left), key));
        self.open = Some(OpenReplica { number, left, replica });
        Ok((json!(number), Vec::new()))
    }

    fn held(&mut self) -> Result<&mut Held> {
        self.held.as_mut().map(|(held, _)| held).ok_or_else(|| malformed("no pipeline is held"))
    }

    fn table(&self, number: u32) -> Result<&OpenReplica> {
        let open = self.open.as_ref().filter(|open| open.number == number);
        open.ok_or_else(|| malformed("a table that is not open"))
    }
}

fn told(finding: syncline_core::Finding) -> Finding {
    Finding {
        severity: match finding.severity {
            Severity::Note => 0,
            Severity::Warning => 1,
            Severity::Error => 2,
        },
        table: finding.table,
        message: finding.message,
        remedy: finding.remedy,
    }
}

fn json_of<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|_| malformed("a table cannot be read"))
}

fn tables(body: &[u8]) -> Result<Vec<Arc<TableSchema>>> {
    let tables: Vec<TableSchema> = json_of(body)?;
    if tables.len() > TABLES_MAX {
        return Err(malformed("too many tables"));
    }
    tables.into_iter().map(|table| plain(table).map(Arc::new)).collect()
}

/// A table as the other end describes it, without what could be the text of a statement.
fn plain(table: TableSchema) -> Result<TableSchema> {
    if !table.row_key.iter().all(|&place| place < table.columns.len()) {
        return Err(malformed("a key has no columns"));
    }
    if let Some(column) = table.columns.iter().find(|column| !types::is_plain(&column.native_type)) {
        return Err(Error::configuration(format!(
            "an agent does not take the type of column {}",
            column.name
        ))
        .with_table(&table.id)
        .with_remedy("leave the column out with --exclude-column"));
    }
    Ok(TableSchema { native: None, ..table })
}
