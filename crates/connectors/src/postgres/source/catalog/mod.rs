//! The source's catalogue: which tables there are, what they are exactly, and by what their rows are identified.
//!
//! Read by a few set queries, however many tables there are, and then judged here in memory. Nothing of a table's rows
//! is read.

mod describe;
mod read;
mod rows;
mod types;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use syncline_core::{Column, Error, Query, Result, Selection, TableId, TablePattern, TableSchema};

use crate::postgres::connect::Session;
use rows::Member;
pub(super) use rows::{Identity, Kind, Relation};
use types::Types;

/// What was read of the selected tables.
pub(super) struct Catalog {
    /// Selected tables, in name order.
    pub(super) relations: Vec<Relation>,
    /// Relations that the patterns name but that cannot be replicated (unlogged, foreign, views), with what they are.
    pub(super) others: Vec<(TableId, &'static str)>,
    /// Names of all relations that could be taken, selected or not: for the message about a pattern without a match.
    names: BTreeSet<TableId>,
    types: Types,
    parts: HashMap<u32, describe::Parts>,
}

impl Catalog {
    /// Reads the catalogue of the tables that `takes` takes.
    pub(super) async fn read(session: &Session, takes: impl Fn(&TableId) -> bool) -> Result<Self> {
        let found = read::relations(session).await?;
        let names = found.iter().filter(|r| r.kind.is_taken()).map(|r| r.id.clone()).collect();
        let (mut relations, others): (Vec<_>, Vec<_>) =
            found.into_iter().filter(|relation| takes(&relation.id)).partition(|r| r.kind.is_taken());
        let others = others.into_iter().map(|other| (other.id, other.kind.name())).collect();
        relations.sort_by(|a, b| a.id.cmp(&b.id));
        read::members(session, &mut relations).await?;
        read::attributes(session, &mut relations).await?;
        read::identities(session, &mut relations).await?;
        let types = Types::read(session, &relations).await?;
        let parts = describe::read(session, &relations).await?;
        Ok(Self { relations, others, names, types, parts })
    }

    /// Reads the catalogue of a selection and checks that every pattern of it means something.
    pub(super) async fn of_selection(session: &Session, selection: &Selection) -> Result<Self> {
        let catalog = Self::read(session, |id| selection.takes(id)).await?;
        catalog.check_patterns(selection)?;
        catalog.check_exclusions(selection)?;
        Ok(catalog)
    }

    /// Describes queries as if they were tables.
    pub(super) async fn of_queries(session: &Session, queries: &[&Query]) -> Result<Self> {
        let mut relations = Vec::with_capacity(queries.len());
        for query in queries {
            relations.push(read::relation_of(session, query).await?);
        }
        let types = Types::read(session, &relations).await?;
        Ok(Self { relations, others: Vec::new(), names: BTreeSet::new(), types, parts: HashMap::new() })
    }

    /// The selected tables as a pipeline sees them.
    pub(super) fn schemas(&self, selection: &Selection) -> Result<Vec<TableSchema>> {
        let binary = self.stream_can_be_binary(selection);
        self.relations.iter().map(|relation| self.schema(relation, selection, binary)).collect()
    }

    fn schema(&self, relation: &Relation, selection: &Selection, binary: bool) -> Result<TableSchema> {
        let excluded = selection.excluded_columns(&relation.id);
        let mut columns = Vec::new();
        for attribute in relation.carried(&excluded) {
            columns.push(Column {
                name: attribute.name.clone(),
                data_type: self.types.data_type(attribute),
                nullable: !attribute.not_null,
                native_type: attribute.sql_type.clone(),
                carriage: self.types.carriage(attribute, selection.carry, binary),
            });
        }
        if columns.is_empty() {
            return Err(Error::configuration("no column is left of it")
                .with_table(&relation.id)
                .with_remedy("exclude the whole table with --exclude, or fewer of its columns"));
        }
        let place = |name: &String| columns.iter().position(|column| column.name == *name);
        let row_key: Option<Vec<usize>> = relation.key_columns().iter().map(place).collect();
        let definition =
            describe::definition(relation, selection, &self.types, self.parts.get(&relation.oid));
        Ok(TableSchema {
            id: relation.id.clone(),
            columns,
            // A key that lacks one of its columns identifies nothing.
            row_key: row_key.unwrap_or_default(),
            version: 1,
            rows_estimated: Some(relation.rows_estimated),
            native: Some(definition.to_native()?),
        })
    }

    /// pgoutput's `binary` holds for a whole stream: one column whose binary value holds OIDs turns it off for all.
    fn stream_can_be_binary(&self, selection: &Selection) -> bool {
        self.relations.iter().all(|relation| {
            let excluded = selection.excluded_columns(&relation.id);
            relation.carried(&excluded).all(|attribute| self.types.allows_binary_stream(attribute.type_oid))
        })
    }

    fn check_patterns(&self, selection: &Selection) -> Result<()> {
        for pattern in &selection.include {
            if self.names.iter().any(|id| pattern.matches(id)) {
                continue;
            }
            let error = Error::configuration(format!("no table matches {}", text_of(pattern)));
            return Err(match self.others.iter().find(|(id, _)| pattern.matches(id)) {
                Some((id, what)) => error.with_remedy(format!("{id} is {what}, which cannot be replicated")),
                None => error.with_remedy("list what there is with `syncline discover URL`"),
            });
        }
        Ok(())
    }

    /// A misspelt exclusion would let the column out, so each must hit.
    fn check_exclusions(&self, selection: &Selection) -> Result<()> {
        for (pattern, column) in &selection.exclude_columns {
            let hit = |relation: &Relation| {
                pattern.matches(&relation.id) && relation.attributes.iter().any(|a| a.name == *column)
            };
            if !self.relations.iter().any(hit) {
                let pattern = text_of(pattern);
                return Err(Error::configuration(format!(
                    "the excluded column {pattern}.{column} is in no selected table"
                ))
                .with_remedy("correct its name, or leave the exclusion out"));
            }
        }
        Ok(())
    }

    /// The selected relations by name.
    pub(super) fn by_name(&self) -> BTreeMap<&TableId, &Relation> {
        self.relations.iter().map(|relation| (&relation.id, relation)).collect()
    }
}

fn text_of(pattern: &TablePattern) -> String {
    String::from(pattern.clone())
}
