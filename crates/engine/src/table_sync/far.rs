//! Where the far side is: a destination that this process writes, or one behind an agent. It is opened when there is something
//! to say to it, and not before.

use std::sync::Arc;

use syncline_core::{Carry, Error, Replica, Result, Selection, Source, TableId, TableSchema};

use super::held::{Held, Holding};
use super::near::VersionSide;
use super::round::TableSync;
use crate::diff;
use crate::diff::remote::{Agent, Dial, Push};

/// Where the far side is.
#[derive(Clone)]
pub enum FarEnd {
    /// A destination that this process writes, as it is read.
    Here(Arc<dyn Source>),
    /// Behind an agent, which writes.
    There(Arc<dyn Dial>),
}

impl FarEnd {
    /// Where it is, without secrets.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Here(read) => read.address(),
            Self::There(dial) => dial.address(),
        }
    }
}

/// The far side, held.
pub(super) struct Far {
    /// As it is read, or described.
    read: Arc<dyn Source>,
    end: End,
}

enum End {
    Here(Held),
    /// With the tables in the form in which they are made there.
    There(Arc<Push>, Vec<Arc<TableSchema>>),
}

impl Far {
    pub(super) async fn open(sync: &TableSync, tables: &[Arc<TableSchema>]) -> Result<Self> {
        let pipeline = &sync.pipeline;
        let holding = Holding {
            pipeline: pipeline.name.clone(),
            schema_map: pipeline.schema_map.clone(),
            run: sync.run,
        };
        match &sync.far {
            FarEnd::Here(read) => {
                let held = Held::open(&pipeline.destination, holding, tables).await?;
                Ok(Self { read: Arc::clone(read), end: End::Here(held) })
            }
            FarEnd::There(dial) => {
                let agent = Agent::connect(Arc::clone(dial)).await?;
                let tables = carried(sync, agent.family() == pipeline.source.family()).await?;
                let push = Push::open(Arc::clone(&agent), holding, &tables).await?;
                Ok(Self { read: agent, end: End::There(push, tables) })
            }
        }
    }

    /// Both sides of a table, which is made at the destination if it is not there yet.
    pub(super) async fn pair(
        &mut self,
        sync: &TableSync,
        table: &Arc<TableSchema>,
        column: usize,
    ) -> Result<(Arc<VersionSide>, Box<dyn Replica>)> {
        self.bring_in(sync, table).await?;
        let pipeline = &sync.pipeline;
        let is_this = |id: &TableId| *id == table.id;
        let (selection, map) = (&pipeline.selection, &pipeline.schema_map);
        let pairings = diff::pair_some(&pipeline.source, &self.read, selection, map, is_this).await?;
        let pairing = pairings.into_iter().next().ok_or_else(|| Error::bug("a table without a pair"))?;
        let version = &table.columns[column].name;
        let column = pairing.left.columns.iter().position(|column| column.name == *version);
        let column = column.ok_or_else(|| Error::bug("the version column is not compared"))?;
        let key_columns = pairing.key_columns;
        let side = |of: &Arc<dyn Source>, table: &Arc<TableSchema>| {
            VersionSide::new(Arc::clone(of), Arc::clone(table), pairing.columns.clone(), key_columns, column)
        };
        let near = Arc::new(side(&pipeline.source, &pairing.left));
        let replica: Box<dyn Replica> = match &self.end {
            End::Here(held) => {
                let key = pairing.columns[..key_columns].to_vec();
                let right = side(&self.read, &pairing.right);
                Box::new(held.replica(right, Arc::clone(&pairing.left), key))
            }
            End::There(push, _) => Box::new(push.replica(&pairing, column)?),
        };
        Ok((near, replica))
    }

    async fn bring_in(&mut self, sync: &TableSync, table: &Arc<TableSchema>) -> Result<()> {
        let prepare = sync.pipeline.prepare;
        match &mut self.end {
            End::Here(held) if held.knows(&table.id) => Ok(()),
            End::Here(held) => held.bring_in(table, prepare).await,
            End::There(push, _) if push.knows(&table.id).await => Ok(()),
            End::There(push, tables) => {
                let carried = tables.iter().find(|carried| carried.id == table.id);
                let carried = carried.ok_or_else(|| Error::bug("a table that was not spoken of"))?;
                push.bring_in(carried, prepare).await
            }
        }
    }

    /// Gives it back.
    pub(super) async fn close(self) {
        match self.end {
            End::Here(held) => held.close().await,
            End::There(push, _) => push.close().await,
        }
    }
}

/// The tables as the agent's side takes them. Whose family that is was not known before somebody asked.
async fn carried(sync: &TableSync, same_family: bool) -> Result<Vec<Arc<TableSchema>>> {
    let carry = if same_family { Carry::Native } else { Carry::Typed };
    let selection = Selection { carry, ..sync.pipeline.selection.clone() };
    let tables = sync.pipeline.source.discover(&selection).await?;
    Ok(tables.into_iter().map(Arc::new).collect())
}
