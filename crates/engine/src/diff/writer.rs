//! Who writes a repair: the pipeline that owns the table, under its lock, or a pipeline of the comparison's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use syncline_core::{
    Carriage, Checkpoint, Destination, DestinationSession, Error, ErrorKind, Lane, Load, LoadIdentity,
    LoadKind, PipelineName, Result, SchemaMap, TableId, TablePhase, TableSchema,
};
use syncline_store::this_process;

use super::repair::Ledger;

/// The destination of repairs. Pipelines are opened when they are first needed; [`Writer::close`] gives them back.
pub struct Writer {
    destination: Arc<dyn Destination>,
    map: SchemaMap,
    own: PipelineName,
    run: i64,
    loads: u32,
    owners: BTreeMap<TableId, PipelineName>,
    held: BTreeMap<PipelineName, Held>,
}

/// A pipeline that is held.
struct Held {
    session: Arc<dyn DestinationSession>,
    checkpoint: Checkpoint,
}

impl Writer {
    /// A writer for these tables of the source. `own`: the pipeline under which tables are written that nobody owns; `run`:
    /// the number of the run that compares.
    ///
    /// # Errors
    /// As asking the destination who owns the tables.
    pub async fn new(
        destination: Arc<dyn Destination>,
        map: SchemaMap,
        own: PipelineName,
        run: i64,
        tables: &[TableId],
    ) -> Result<Self> {
        let owners = destination.owners(tables, &map).await?;
        Ok(Self { destination, map, own, run, loads: 0, owners, held: BTreeMap::new() })
    }

    /// The pipeline that owns a table, if one does.
    #[must_use]
    pub fn owner(&self, table: &TableId) -> Option<&PipelineName> {
        self.owners.get(table).filter(|owner| **owner != self.own)
    }

    /// Begins the load of a table's repair.
    ///
    /// # Errors
    /// Configuration with the remedy if the table's pipeline runs, or if its snapshot is not finished; as any connection.
    pub(super) async fn begin(&mut self, table: &Arc<TableSchema>) -> Result<(Box<dyn Load>, Ledger)> {
        let name = self.owner(&table.id).unwrap_or(&self.own).clone();
        if !self.held.contains_key(&name) {
            let held = self.hold(&name, &table.id).await?;
            self.held.insert(name.clone(), held);
        }
        let held = &self.held[&name];
        let ledger = ledger(&held.checkpoint, table)?;
        self.loads += 1;
        let kind = LoadKind::Repair { table: table.id.clone(), run: self.run, n: self.loads };
        let identity = LoadIdentity { pipeline: name, lane: Lane::Main, kind };
        Ok((held.session.begin(&identity).await?, ledger))
    }

    async fn hold(&self, name: &PipelineName, table: &TableId) -> Result<Held> {
        let session = self.destination.open(name, &this_process()?, &self.map).await;
        let session = session.map_err(|error| match error.kind() {
            ErrorKind::Configuration if *name != self.own => Error::configuration(format!(
                "the table is kept in sync by pipeline `{name}`, which cannot be taken: {error}"
            ))
            .with_table(table)
            .with_remedy(format!(
                "let the pipeline do it: `syncline verify {name} --repair`; or stop it first"
            )),
            _ => error,
        })?;
        let checkpoint = session.checkpoint().await?;
        Ok(Held { session, checkpoint })
    }

    /// Gives back what is held. Of the writer's own pipeline nothing is left.
    ///
    /// # Errors
    /// As any write.
    pub async fn close(self) -> Result<()> {
        for held in self.held.values() {
            held.session.close().await;
        }
        if self.held.contains_key(&self.own) {
            self.destination.drop_pipeline(&self.own).await?;
        }
        Ok(())
    }
}

/// What a repair of this table leaves in its pipeline's checkpoint.
fn ledger(checkpoint: &Checkpoint, table: &TableSchema) -> Result<Ledger> {
    let Some(state) = checkpoint.tables.get(&table.id) else { return Ok(Ledger::Nothing) };
    if matches!(state.phase, TablePhase::Snapshot | TablePhase::Closing) {
        return Err(Error::configuration(
            "the table's snapshot is not finished, so it cannot be repaired yet",
        )
        .with_table(&table.id)
        .with_remedy("let its pipeline finish: run `syncline sync` again"));
    }
    if checkpoint.letters.values().any(|letter| letter.table == table.id) {
        return Err(Error::configuration(
            "rows of the table are set aside as dead letters, which a repair would overtake",
        )
        .with_table(&table.id)
        .with_remedy("retry or discard them first: `syncline dead-letters list NAME`"));
    }
    // A read may miss what the stream had applied before it was visible at the source. The re-read knows how to tell.
    let native = |&column: &usize| table.columns[column].carriage != Carriage::Typed;
    let can_be_read_again = table.has_row_key() && table.row_key.iter().all(native);
    let is_streamed = checkpoint.lanes.contains_key(&Lane::Main);
    Ok(if is_streamed && can_be_read_again { Ledger::Reread } else { Ledger::Nothing })
}
