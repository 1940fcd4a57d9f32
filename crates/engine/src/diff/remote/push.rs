//! The asking end of a table sync: a pipeline held at an agent's side, and its tables as far sides.
//!
//! A connection that breaks is made anew, the pipeline taken again, the table opened again, and what was asked is asked again:
//! all of it may be repeated at will.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use serde::de::DeserializeOwned;
use syncline_core::{
    Destination, DestinationSession, Error, ErrorKind, Family, Finding, Holder, Letter, LetterId, Manifest,
    ManifestBounds, ManifestKey, ManifestPlace, PipelineName, Prepare, Reaction, Replica, ReplicaState,
    Result, SchemaMap, Severity, TableId, TableSchema, Version, VersionRange,
};
use tokio::sync::Mutex;

use super::agent::{Agent, Dial, Question};
use super::frame::malformed;
use super::list;
use super::message::{self, Ask, Open, PushAsk};
use super::traffic::Purpose;
use super::writing::{MANIFEST_BYTES_MAX, PUSH_BYTES_MAX};
use crate::diff::Pairing;
use crate::table_sync::Holding;

/// Before a question is asked again whose connection broke.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];
/// Names of tables, and findings.
const NAMES_BYTES_MAX: usize = 16 << 20;
/// What a list of keys takes beside them, for each.
const KEY_BYTES: usize = 32;
/// Keys may be written longer than they were read.
const KEYS_SLACK: usize = 16 << 20;

/// A pipeline that is held at an agent's side.
pub(crate) struct Push {
    agent: Arc<Agent>,
    holding: Holding,
    /// This process, so that a connection of it that broke does not stand in the way of the next one.
    by: String,
    tables: Vec<u8>,
    held: Mutex<HeldThere>,
}

#[derive(Default)]
struct HeldThere {
    /// The connection on which it is held.
    epoch: Option<u64>,
    /// Tables that were brought in.
    known: BTreeSet<TableId>,
}

impl Push {
    /// Takes the pipeline.
    ///
    /// # Errors
    /// Configuration with the remedy if it cannot be had, or if the agent only reads; as any connection.
    pub(crate) async fn open(
        agent: Arc<Agent>,
        holding: Holding,
        tables: &[Arc<TableSchema>],
    ) -> Result<Arc<Self>> {
        let tables = described(tables)?;
        let holder = syncline_store::this_process()?;
        let by = format!("{} {} {} {}", holder.host, holder.boot_id, holder.pid, holder.process_start);
        let push = Self { agent, holding, by, tables, held: Mutex::default() };
        push.retried(|| push.held()).await?;
        Ok(Arc::new(push))
    }

    /// Whether a table was brought in.
    pub(crate) async fn knows(&self, table: &TableId) -> bool {
        self.held.lock().await.known.contains(table)
    }

    /// Makes a table there, or finds it fit.
    ///
    /// # Errors
    /// As [`syncline_core::DestinationSession::prepare`].
    pub(crate) async fn bring_in(&self, table: &TableSchema, prepare: Option<Prepare>) -> Result<()> {
        let body = json_of(&bare(table))?;
        let ask = || async {
            let epoch = self.held().await?;
            // It may be there since a connection that broke in between; what `prepare` says is done once.
            if self.knows(&table.id).await {
                return Ok(());
            }
            self.ask_on::<()>(epoch, PushAsk::BringIn { prepare }, &body, 0).await.map(drop)
        };
        self.retried(ask).await?;
        self.held.lock().await.known.insert(table.id.clone());
        Ok(())
    }

    /// A table of it. `version`: place of the version among the columns of the pair.
    ///
    /// # Errors
    /// A bug if the table cannot be described.
    pub(crate) fn replica(self: &Arc<Self>, pairing: &Pairing, version: usize) -> Result<AgentReplica> {
        let open = Open {
            table: pairing.right.id.clone(),
            columns: pairing.right.columns.clone(),
            classes: pairing.columns.iter().map(|column| column.class).collect(),
            key_columns: pairing.key_columns,
        };
        let (right, left) = (json_of(&open)?, json_of(&bare(&pairing.left))?);
        Ok(AgentReplica {
            push: Arc::clone(self),
            described: list::List::of([right.as_slice(), &left])?,
            table: pairing.left.id.clone(),
            key_columns: open.key_columns,
            version,
            opened: Mutex::default(),
        })
    }

    /// Gives it back. If that cannot be said, the agent sees that we are gone.
    pub(crate) async fn close(&self) {
        if self.agent.is_connected().await
            && let Err(error) = self.agent.release().await
        {
            tracing::debug!(%error, "the agent could not be told that we are done");
        }
    }

    /// The connection on which the pipeline is held.
    async fn held(&self) -> Result<u64> {
        let mut held = self.held.lock().await;
        if let Some(epoch) = held.epoch
            && self.agent.is_on(epoch).await
        {
            return Ok(epoch);
        }
        held.epoch = None;
        let ask = Ask::Push(PushAsk::Hold { holding: self.holding.clone(), by: self.by.clone() });
        let question = Question::new(ask, &self.tables, Purpose::Rest, NAMES_BYTES_MAX);
        let ((), body, epoch) = self.agent.ask(question, None).await?;
        held.known = serde_json::from_slice(&body).map_err(|_| malformed("tables cannot be read"))?;
        held.epoch = Some(epoch);
        Ok(epoch)
    }

    async fn ask_on<T: DeserializeOwned>(
        &self,
        epoch: u64,
        ask: PushAsk,
        body: &[u8],
        body_bytes_max: usize,
    ) -> Result<(T, Vec<u8>)> {
        let question = Question {
            epoch: Some(epoch),
            ..Question::new(Ask::Push(ask), body, Purpose::Rows, body_bytes_max)
        };
        self.agent.ask(question, None).await.map(|(head, body, _)| (head, body))
    }

    /// Asks again where the connection broke. What the agent says itself is its answer.
    async fn retried<T, F: Future<Output = Result<T>>>(&self, ask: impl Fn() -> F) -> Result<T> {
        let mut pauses = PAUSES.iter();
        loop {
            match ask().await {
                Err(error)
                    if error.kind().reaction() == Reaction::Retry && !self.agent.is_connected().await =>
                {
                    let Some(pause) = pauses.next() else { return Err(error) };
                    tracing::info!(%error, "asking again");
                    tokio::time::sleep(*pause).await;
                }
                answered => return answered,
            }
        }
    }
}

/// A table at an agent's side.
pub(crate) struct AgentReplica {
    push: Arc<Push>,
    table: TableId,
    key_columns: usize,
    /// Both sides' tables, as they are opened.
    described: Vec<u8>,
    version: usize,
    /// Number of the connection and of the table on it.
    opened: Mutex<Option<(u64, u32)>>,
}

impl AgentReplica {
    async fn opened(&self) -> Result<(u64, u32)> {
        let epoch = self.push.held().await?;
        let mut opened = self.opened.lock().await;
        if let Some(known) = opened.filter(|(on, _)| *on == epoch) {
            return Ok(known);
        }
        let ask = PushAsk::Open { version: self.version };
        let (number, _) = self.push.ask_on(epoch, ask, &self.described, 0).await?;
        Ok(*opened.insert((epoch, number)))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        ask: impl Fn(u32) -> PushAsk,
        body: &[u8],
        body_bytes_max: usize,
    ) -> Result<(T, Vec<u8>)> {
        let (ask, push) = (&ask, &self.push);
        let once = || async move {
            let (epoch, number) = self.opened().await?;
            push.ask_on(epoch, ask(number), body, body_bytes_max).await
        };
        let answered = push.retried(once).await;
        answered.map_err(|error| match error.kind() {
            ErrorKind::Data | ErrorKind::Configuration => error.with_table(&self.table),
            _ => error,
        })
    }
}

#[async_trait]
impl Replica for AgentReplica {
    async fn state(&self, range: &VersionRange) -> Result<ReplicaState> {
        let ask = |table| PushAsk::State { table, range: *range };
        self.ask(ask, &[], 0).await.map(|(state, _)| state)
    }

    async fn manifest(
        &self,
        range: &VersionRange,
        after: Option<&ManifestPlace>,
        bounds: ManifestBounds,
    ) -> Result<Manifest> {
        let ManifestBounds { rows_max, bytes_max } = bounds;
        let ask = |table| PushAsk::Manifest { table, range: *range, rows_max, bytes_max };
        let body_bytes_max = bytes_max.min(MANIFEST_BYTES_MAX) * 2 + rows_max * KEY_BYTES + KEYS_SLACK;
        let place = after.map_or(&[][..], |place| &place.0);
        let (has_more, body) = self.ask(ask, place, body_bytes_max).await?;
        let mut items = list::items(&body)?;
        let next = if has_more { items.pop() } else { None };
        if has_more && (items.is_empty() || next.is_none()) || items.len() > 2 * rows_max.saturating_add(1) {
            return Err(malformed("a manifest has other rows than were asked for"));
        }
        let row = |row: &[&[u8]]| {
            let [key, version] = row else { return Err(malformed("a key without its version")) };
            let version = <[u8; 8]>::try_from(*version).map_err(|_| malformed("a version is a number"))?;
            let key = list::row(key, self.key_columns)?;
            Ok((ManifestKey::from(key), Version(i64::from_le_bytes(version))))
        };
        let rows = items.chunks(2).map(row).collect::<Result<_>>()?;
        Ok(Manifest { rows, next: next.map(|place| ManifestPlace(place.into())) })
    }

    async fn upsert(&self, rows: &RecordBatch) -> Result<()> {
        let body = list::batch_bytes(rows)?;
        if body.len() > PUSH_BYTES_MAX {
            let message = "more than the 256 MiB that an agent takes at once";
            return Err(Error::new(ErrorKind::Data, message).with_table(&self.table).with_rows_at_fault());
        }
        self.ask(|table| PushAsk::Upsert { table }, &body, 0).await.map(|((), _)| ())
    }

    async fn delete(&self, keys: &[ManifestKey]) -> Result<()> {
        let body = list::List::of(keys.iter().map(AsRef::as_ref))?;
        self.ask(|table| PushAsk::Delete { table }, &body, 0).await.map(|((), _)| ())
    }
}

/// A destination behind an agent. Rows get there by table syncs only, so it is no destination of loads.
pub struct AgentDestination(Arc<dyn Dial>);

impl AgentDestination {
    /// Connects to nothing yet.
    #[must_use]
    pub fn new(dial: Arc<dyn Dial>) -> Self {
        Self(dial)
    }

    async fn ask(&self, ask: PushAsk, body: &[u8], body_bytes_max: usize) -> Result<Vec<u8>> {
        let agent = Agent::connect(Arc::clone(&self.0)).await?;
        let question = Question::new(Ask::Push(ask), body, Purpose::Rest, body_bytes_max);
        agent.ask::<()>(question, None).await.map(|((), body, _)| body)
    }
}

fn no_loads() -> Error {
    Error::configuration("an agent (syncline://) can be the destination of mode `incremental` only")
        .with_remedy("add --mode incremental and a version column, or name the database itself")
}

#[async_trait]
impl Destination for AgentDestination {
    /// Nobody knows it before the agent is asked.
    fn family(&self) -> Family {
        Family("agent")
    }

    fn address(&self) -> String {
        self.0.address()
    }

    async fn check(&self, tables: &[Arc<TableSchema>], map: &SchemaMap) -> Result<Vec<Finding>> {
        let body = described(tables)?;
        let found = self.ask(PushAsk::Check { schema_map: map.clone() }, &body, NAMES_BYTES_MAX).await?;
        let found: Vec<message::Finding> =
            serde_json::from_slice(&found).map_err(|_| malformed("findings cannot be read"))?;
        let told = |found: message::Finding| Finding {
            severity: match found.severity {
                0 => Severity::Note,
                1 => Severity::Warning,
                _ => Severity::Error,
            },
            code: "agent",
            table: found.table,
            message: super::failure::cut(&found.message),
            remedy: found.remedy.as_deref().map(super::failure::cut),
        };
        Ok(found.into_iter().map(told).collect())
    }

    async fn open(
        &self,
        _pipeline: &PipelineName,
        _holder: &Holder,
        _map: &SchemaMap,
    ) -> Result<Arc<dyn DestinationSession>> {
        Err(no_loads())
    }

    async fn owners(
        &self,
        _tables: &[TableId],
        _map: &SchemaMap,
    ) -> Result<std::collections::BTreeMap<TableId, PipelineName>> {
        Err(no_loads())
    }

    async fn drop_pipeline(&self, pipeline: &PipelineName) -> Result<()> {
        let holding = Holding { pipeline: pipeline.clone(), schema_map: SchemaMap::default(), run: 0 };
        self.ask(PushAsk::Forget { holding }, &[], 0).await.map(drop)
    }

    /// Those of a table sync are where it runs.
    async fn letters(
        &self,
        _pipeline: &PipelineName,
    ) -> Result<std::collections::BTreeMap<LetterId, Letter>> {
        Ok(std::collections::BTreeMap::new())
    }
}

/// What only the source's own family could use does not leave: no statement is taken at the other end.
fn bare(table: &TableSchema) -> TableSchema {
    TableSchema { native: None, ..table.clone() }
}

fn described(tables: &[Arc<TableSchema>]) -> Result<Vec<u8>> {
    json_of(&tables.iter().map(|table| bare(table)).collect::<Vec<_>>())
}

fn json_of(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::bug("a table cannot be written as JSON").with_source(error))
}
