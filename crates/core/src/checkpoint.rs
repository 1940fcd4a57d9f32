//! What a destination remembers of a pipeline, and the only way it changes.
//!
//! A [`Checkpoint`] changes by a [`Delta`] that fits, in the transaction of the data it covers, or not at all. Fitting
//! is a pure function, [`Checkpoint::standing`]; a destination that keeps the checkpoint as rows enforces the same rules
//! by the number of rows each of its statements touches.
//!
//! | change | fits when | stands when |
//! |---|---|---|
//! | `Advance` | the lane is at `from` | the lane is at `to` |
//! | `Open` | the lane is absent | the lane is at `at` |
//! | `Close` | the lane is at `at` | the lane is absent |
//! | `Mark` | always | the table has this phase and generation |
//! | `Chunk` | the generation is current and `n` is absent | the same entry is present |
//! | `Reset` | the generation is one below | the generation is this one |
//! | `AddReread`, `RemoveReread` | always (sets) | the key is in, out |
//! | `Parts` | the table is in the checkpoint | these are its parts |
//! | `PutLetter` | the table is in the checkpoint, and no other table has a letter of this number | this letter is there |
//! | `RemoveLetter` | the letter is there | it is not |
//!
//! A table whose ledger begins anew has no letters: its rows are read again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::key::RowKey;
use crate::letter::{Letter, LetterId};
use crate::name::TableId;
use crate::position::Position;

/// What has a position of its own in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lane {
    /// Everything that has no lane of its own.
    Main,
    /// One table that goes apart for a while.
    Table(TableId),
}

impl Lane {
    /// The form in which a destination stores it: `main`, or `table:` and the JSON of schema and name.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Main => "main".to_owned(),
            Self::Table(id) => format!("table:{}", serde_json::json!([id.schema, id.name])),
        }
    }

    /// Reads [`Lane::to_text`].
    ///
    /// # Errors
    /// A conflict if the text is not a lane.
    pub fn from_text(text: &str) -> Result<Self> {
        if text == "main" {
            return Ok(Self::Main);
        }
        text.strip_prefix("table:")
            .and_then(|json| serde_json::from_str::<(String, String)>(json).ok())
            .map(|(schema, name)| Self::Table(TableId { schema, name }))
            .ok_or_else(|| Error::conflict(format!("`{text}` is not a lane")))
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Main => f.write_str("main"),
            Self::Table(id) => write!(f, "{id}"),
        }
    }
}

/// How far a table's life in a pipeline has come. Only a commit at the destination changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TablePhase {
    /// Prepared; its chunks are being loaded. Set when the table's lane is opened.
    Snapshot,
    /// All its chunks are loaded; key and indexes are built, re-reads and waiting changes are applied.
    Closing,
    /// It shows only states the source had. Set by the commit that closes its lane.
    Consistent,
    /// Its changes were let go: only a new snapshot or a diff brings it back.
    NeedsSnapshot,
    /// Changes were lost, and the table is being compared with the source and repaired while its changes go on. It may show
    /// what the source never had until it is consistent again.
    Recovering,
}

impl TablePhase {
    /// The stored form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Closing => "closing",
            Self::Consistent => "consistent",
            Self::NeedsSnapshot => "needs_snapshot",
            Self::Recovering => "recovering",
        }
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// A conflict if the text is not a phase.
    pub fn parse(text: &str) -> Result<Self> {
        [Self::Snapshot, Self::Closing, Self::Consistent, Self::NeedsSnapshot, Self::Recovering]
            .into_iter()
            .find(|phase| phase.as_str() == text)
            .ok_or_else(|| Error::conflict(format!("`{text}` is not a phase of a table")))
    }
}

/// One loaded chunk: which keys, and what its read saw. Both texts are the source connector's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkEntry {
    /// The range of the table.
    pub range: String,
    /// The read mark.
    pub mark: String,
    /// Rows loaded: 0 in a delta, the destination writes the number it loaded.
    pub rows: u64,
}

/// A table's ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    /// Phase of its life.
    pub phase: TablePhase,
    /// Counts its snapshots; chunks of another generation do not fit.
    pub generation: u32,
    /// Loaded chunks by number.
    pub chunks: BTreeMap<u32, ChunkEntry>,
    /// Keys that must be read again before the window may end.
    pub rereads: BTreeSet<RowKey>,
    /// What the table is made of, as far as that is known here.
    #[serde(default)]
    pub parts: Parts,
}

/// Parts of a table with which rows come and go without a word in the log (partitions that are attached and detached).
/// A part's name is the source's own text, which changes when the part leaves and comes back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Parts {
    /// Those whose rows are at the destination, or come with the present generation; with what to call them on the screen.
    pub known: BTreeMap<String, String>,
    /// Those that the chunks of the present generation cover; empty: they cover the whole table. A ledger that begins anew,
    /// and a table that becomes consistent, have none.
    pub joining: BTreeSet<String>,
}

/// What a destination remembers of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Where each lane stands.
    pub lanes: BTreeMap<Lane, Position>,
    /// Ledgers of the tables this pipeline owns.
    pub tables: BTreeMap<TableId, TableState>,
    /// What identifies the source's log (system, timeline, slot); a different one is a gap.
    pub origin: Option<String>,
    /// Rows that were refused. Bounded by the pipeline's budget.
    pub letters: BTreeMap<LetterId, Letter>,
}

/// One change of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A lane moves on.
    Advance {
        /// Which.
        lane: Lane,
        /// Where it must stand.
        from: Position,
        /// Where it stands then.
        to: Position,
    },
    /// A lane begins.
    Open {
        /// Which.
        lane: Lane,
        /// Where it stands.
        at: Position,
    },
    /// A lane ends; its table goes on in [`Lane::Main`], which stands at the same place.
    Close {
        /// Which.
        lane: Lane,
        /// Where it must stand.
        at: Position,
    },
    /// A table's phase; the first one makes the table this pipeline's.
    Mark {
        /// Which table.
        table: TableId,
        /// Its phase now.
        phase: TablePhase,
        /// Its generation.
        generation: u32,
    },
    /// A chunk is loaded.
    Chunk {
        /// Of which table.
        table: TableId,
        /// Generation of its snapshot.
        generation: u32,
        /// Number of the chunk.
        n: u32,
        /// What was loaded.
        entry: ChunkEntry,
    },
    /// A table's ledger begins anew with this generation (one above the present one).
    Reset {
        /// Which table.
        table: TableId,
        /// The new generation.
        generation: u32,
    },
    /// Keys go on the re-read list.
    AddReread {
        /// Of which table.
        table: TableId,
        /// Which rows.
        keys: Vec<RowKey>,
    },
    /// Keys have been read again.
    RemoveReread {
        /// Of which table.
        table: TableId,
        /// Which rows.
        keys: Vec<RowKey>,
    },
    /// The source's log gets its identity.
    Origin(String),
    /// What a table is made of, as it is known from now on.
    Parts {
        /// Which table.
        table: TableId,
        /// Its parts.
        parts: Parts,
    },
    /// A row is set aside, or what is set aside of it changes.
    PutLetter {
        /// The letter's number.
        id: LetterId,
        /// The letter.
        letter: Letter,
    },
    /// A letter is superseded, loaded or discarded.
    RemoveLetter {
        /// The letter's number.
        id: LetterId,
    },
}

/// What a commit changes in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Delta {
    /// The changes, in this order.
    pub changes: Vec<Change>,
    /// Whether rows whose masked columns had no row to come from go on the re-read list. The destination adds them in
    /// the same commit and reports them in [`crate::Durable::rereads`].
    pub reread_missing: bool,
}

impl Delta {
    /// A delta of these changes.
    #[must_use]
    pub fn of(changes: Vec<Change>) -> Self {
        Self { changes, reread_missing: false }
    }
}

/// Why a change does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit(pub String);

impl From<Misfit> for Error {
    fn from(misfit: Misfit) -> Self {
        Self::conflict(misfit.0)
            .with_remedy("another run moved this pipeline; run `syncline status` to see who")
    }
}

/// How a checkpoint relates to a delta: decides what follows a lost answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The delta is already in: the commit had succeeded.
    Stands,
    /// The delta fits: the commit had failed, once more.
    Fits,
    /// Neither: stop.
    Neither(Misfit),
}

impl Checkpoint {
    /// The position of a table's changes: of its own lane, else of the main lane.
    #[must_use]
    pub fn position_of(&self, table: &TableId) -> Option<&Position> {
        self.lanes.get(&Lane::Table(table.clone())).or_else(|| self.lanes.get(&Lane::Main))
    }

    /// The lowest position of all lanes: nothing at or below it is needed again.
    #[must_use]
    pub fn lowest(&self) -> Option<&Position> {
        self.lanes.values().min()
    }

    /// Applies a delta, all of it or nothing.
    ///
    /// # Errors
    /// The misfit of the first change that does not fit.
    pub fn apply(&mut self, delta: &Delta) -> Result<(), Misfit> {
        let mut next = self.clone();
        for change in &delta.changes {
            next.apply_change(change)?;
        }
        *self = next;
        Ok(())
    }

    /// Compares a delta with what stands here.
    #[must_use]
    pub fn standing(&self, delta: &Delta) -> Standing {
        if !delta.changes.is_empty() && delta.changes.iter().all(|change| self.stands(change)) {
            return Standing::Stands;
        }
        match self.clone().apply(delta) {
            Ok(()) => Standing::Fits,
            Err(misfit) => Standing::Neither(misfit),
        }
    }

    fn stands(&self, change: &Change) -> bool {
        match change {
            Change::Advance { lane, to, .. } => self.lanes.get(lane) == Some(to),
            Change::Open { lane, at } => self.lanes.get(lane) == Some(at),
            Change::Close { lane, .. } => !self.lanes.contains_key(lane),
            Change::Mark { table, phase, generation } => {
                self.tables.get(table).is_some_and(|t| t.phase == *phase && t.generation == *generation)
            }
            Change::Chunk { table, generation, n, entry } => self
                .tables
                .get(table)
                .filter(|t| t.generation == *generation)
                .and_then(|t| t.chunks.get(n))
                .is_some_and(|loaded| loaded.range == entry.range && loaded.mark == entry.mark),
            Change::Reset { table, generation } => {
                self.tables.get(table).is_some_and(|t| t.generation == *generation)
            }
            Change::AddReread { table, keys } => {
                self.tables.get(table).is_some_and(|t| keys.iter().all(|key| t.rereads.contains(key)))
            }
            Change::RemoveReread { table, keys } => {
                self.tables.get(table).is_none_or(|t| !keys.iter().any(|key| t.rereads.contains(key)))
            }
            Change::Origin(origin) => self.origin.as_ref() == Some(origin),
            Change::Parts { table, parts } => self.tables.get(table).is_some_and(|t| t.parts == *parts),
            Change::PutLetter { id, letter } => self.letters.get(id) == Some(letter),
            Change::RemoveLetter { id } => !self.letters.contains_key(id),
        }
    }

    fn apply_change(&mut self, change: &Change) -> Result<(), Misfit> {
        match change {
            Change::Advance { lane, from, to } => {
                let at = self.lanes.get_mut(lane).filter(|at| *at == from && to >= from);
                *at.ok_or_else(|| Misfit(format!("lane {lane} does not stand at {from}")))? = to.clone();
            }
            Change::Open { lane, at } => {
                if self.lanes.insert(lane.clone(), at.clone()).is_some() {
                    return Err(Misfit(format!("lane {lane} is open already")));
                }
            }
            Change::Close { lane, at } => {
                if self.lanes.remove(lane).as_ref() != Some(at) {
                    return Err(Misfit(format!("lane {lane} does not stand at {at}")));
                }
            }
            Change::Mark { table, phase, generation } => self.mark(table, *phase, *generation),
            Change::Chunk { table, generation, n, entry } => {
                let state = self.current(table, *generation)?;
                if state.chunks.insert(*n, entry.clone()).is_some() {
                    return Err(Misfit(format!("chunk {n} of table {table} is loaded already")));
                }
            }
            Change::Reset { table, generation } => {
                let below = generation.checked_sub(1);
                let state = self.tables.get_mut(table).filter(|t| Some(t.generation) == below);
                let state =
                    state.ok_or_else(|| Misfit(format!("table {table} is not at the generation before")))?;
                *state = TableState {
                    phase: TablePhase::Snapshot,
                    generation: *generation,
                    chunks: BTreeMap::new(),
                    rereads: BTreeSet::new(),
                    parts: Parts { known: std::mem::take(&mut state.parts.known), joining: BTreeSet::new() },
                };
                self.letters.retain(|_, letter| letter.table != *table);
            }
            Change::AddReread { table, keys } => self.owned(table)?.rereads.extend(keys.iter().cloned()),
            Change::RemoveReread { table, keys } => {
                let state = self.owned(table)?;
                for key in keys {
                    state.rereads.remove(key);
                }
            }
            Change::Origin(origin) => self.origin = Some(origin.clone()),
            Change::Parts { table, parts } => self.owned(table)?.parts = parts.clone(),
            Change::PutLetter { id, letter } => self.put_letter(*id, letter)?,
            Change::RemoveLetter { id } => {
                let gone = self.letters.remove(id);
                let _ = gone.ok_or_else(|| Misfit(format!("dead letter {id} is not in this checkpoint")))?;
            }
        }
        Ok(())
    }

    fn put_letter(&mut self, id: LetterId, letter: &Letter) -> Result<(), Misfit> {
        self.owned(&letter.table)?;
        if self.letters.get(&id).is_some_and(|known| known.table != letter.table) {
            return Err(Misfit(format!("dead letter {id} is another table's")));
        }
        self.letters.insert(id, letter.clone());
        Ok(())
    }

    fn mark(&mut self, table: &TableId, phase: TablePhase, generation: u32) {
        let state = self.tables.entry(table.clone()).or_insert_with(|| TableState {
            phase,
            generation,
            chunks: BTreeMap::new(),
            rereads: BTreeSet::new(),
            parts: Parts::default(),
        });
        state.phase = phase;
        state.generation = generation;
        if phase == TablePhase::Consistent {
            state.chunks.clear();
            state.parts.joining.clear();
        }
    }

    fn owned(&mut self, table: &TableId) -> Result<&mut TableState, Misfit> {
        self.tables.get_mut(table).ok_or_else(|| Misfit(format!("table {table} is not in this checkpoint")))
    }

    fn current(&mut self, table: &TableId, generation: u32) -> Result<&mut TableState, Misfit> {
        let state = self.owned(table)?;
        if state.generation != generation {
            return Err(Misfit(format!("generation {generation} of table {table} is not the current one")));
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advance(from: u64, to: u64) -> Delta {
        Delta::of(vec![Change::Advance {
            lane: Lane::Main,
            from: Position::from_u64(from),
            to: Position::from_u64(to),
        }])
    }

    fn at(position: u64) -> Checkpoint {
        Checkpoint {
            lanes: BTreeMap::from([(Lane::Main, Position::from_u64(position))]),
            ..Checkpoint::default()
        }
    }

    #[test]
    fn a_delta_stands_fits_or_is_refused() {
        let delta = advance(5, 9);
        assert_eq!(at(5).standing(&delta), Standing::Fits);
        assert_eq!(at(9).standing(&delta), Standing::Stands);
        assert!(matches!(at(7).standing(&delta), Standing::Neither(_)));
    }

    #[test]
    fn a_misfit_changes_nothing() {
        let table = TableId::new("public", "t");
        let mut checkpoint = at(5);
        let mut delta = advance(5, 9);
        delta.changes.push(Change::AddReread { table, keys: Vec::new() });
        assert!(checkpoint.apply(&delta).is_err());
        assert_eq!(checkpoint, at(5));
    }

    #[test]
    fn chunks_of_an_older_generation_do_not_fit() {
        let table = TableId::new("public", "t");
        let mut checkpoint = at(5);
        let mark = Change::Mark { table: table.clone(), phase: TablePhase::Snapshot, generation: 1 };
        let reset = Change::Reset { table: table.clone(), generation: 2 };
        checkpoint.apply(&Delta::of(vec![mark, reset])).unwrap();
        let entry = ChunkEntry { range: "r".into(), mark: "m".into(), rows: 1 };
        let chunk = |generation| {
            Delta::of(vec![Change::Chunk { table: table.clone(), generation, n: 0, entry: entry.clone() }])
        };
        assert!(checkpoint.apply(&chunk(1)).is_err());
        checkpoint.apply(&chunk(2)).unwrap();
        assert_eq!(checkpoint.standing(&chunk(2)), Standing::Stands);
    }

    #[test]
    fn lanes_survive_their_text() {
        for lane in [Lane::Main, Lane::Table(TableId::new("a.b\"", "c:d"))] {
            assert_eq!(Lane::from_text(&lane.to_text()).unwrap(), lane);
        }
        assert!(Lane::from_text("table:x").is_err());
    }
}
