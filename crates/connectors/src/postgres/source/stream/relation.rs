//! From the relation numbers of the stream to the tables of the pipeline.
//!
//! A table's description comes before its first change on every connection, and again after it changed. It must be the
//! table as the pipeline knows it: the same relation, the same columns in the same order with the same types, and a
//! replica identity that identifies rows by the row key. Whatever does not fit stops the table; nothing is filled by
//! guess.

use std::collections::HashMap;
use std::sync::Arc;

use syncline_core::{Error, ErrorKind, TableId, TableSchema};

use super::pgoutput::RelationMessage;

/// What the catalogue says of a table when the stream is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CataloguedTable {
    pub(super) oid: u32,
    /// Type of each of the pipeline's columns, in their order.
    pub(super) type_oids: Vec<u32>,
}

/// What a relation number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// The table of this number in the pipeline.
    Table(usize),
    /// Not of this pipeline, or stopped.
    Ignored,
}

/// Why a description does not fit, with the number of the table it is about.
#[derive(Debug)]
pub(super) struct Unfit {
    pub(super) table: usize,
    pub(super) error: Error,
}

struct Expected {
    schema: Arc<TableSchema>,
    /// From the catalogue, else from the first description.
    shape: Option<CataloguedTable>,
    /// None of its changes is wanted any more, whatever its later descriptions say.
    stopped: bool,
}

/// The tables of the pipeline and the relation numbers of this connection.
pub(super) struct Relations {
    tables: Vec<Expected>,
    by_id: HashMap<TableId, usize>,
    by_relation: HashMap<u32, Known>,
    /// The last answer: changes of one table come in rows.
    last: Option<(u32, Known)>,
}

impl Relations {
    pub(super) fn new(tables: &[Arc<TableSchema>], mut catalogue: HashMap<TableId, CataloguedTable>) -> Self {
        let expected = |schema: &Arc<TableSchema>| Expected {
            shape: catalogue.remove(&schema.id).filter(|shape| shape.type_oids.len() == schema.columns.len()),
            schema: schema.clone(),
            stopped: false,
        };
        Self {
            by_id: tables.iter().enumerate().map(|(index, table)| (table.id.clone(), index)).collect(),
            tables: tables.iter().map(expected).collect(),
            by_relation: HashMap::new(),
            last: None,
        }
    }

    /// What a relation number means; `None` if no description of it has come.
    #[inline]
    pub(super) fn get(&mut self, relation: u32) -> Option<Known> {
        match self.last {
            Some((last, known)) if last == relation => Some(known),
            _ => {
                let known = *self.by_relation.get(&relation)?;
                self.last = Some((relation, known));
                Some(known)
            }
        }
    }

    /// A new connection describes everything anew.
    pub(super) fn forget_connection(&mut self) {
        self.by_relation.clear();
        self.last = None;
    }

    /// Changes of a table are not wanted any more.
    pub(super) fn ignore(&mut self, table: usize) {
        self.last = None;
        self.tables[table].stopped = true;
        for known in self.by_relation.values_mut().filter(|known| **known == Known::Table(table)) {
            *known = Known::Ignored;
        }
    }

    /// Takes a description.
    ///
    /// # Errors
    /// If it does not fit its table; never for a table that is ignored.
    pub(super) fn describe(&mut self, message: &RelationMessage<'_>) -> Result<(), Unfit> {
        self.last = None;
        let id = TableId::new(message.schema, message.name);
        let by_oid = || {
            let has_oid =
                |table: &Expected| table.shape.as_ref().is_some_and(|shape| shape.oid == message.id);
            self.tables.iter().position(has_oid)
        };
        let Some(table) = self.by_id.get(&id).copied().or_else(by_oid) else {
            tracing::warn!(table = %id, "published changes of a table that is not in the pipeline are left out");
            self.by_relation.insert(message.id, Known::Ignored);
            return Ok(());
        };
        // Until it is found to fit, nothing of it is taken.
        self.by_relation.insert(message.id, Known::Ignored);
        let expected = &mut self.tables[table];
        if expected.stopped {
            return Ok(());
        }
        if let Err(misfit) = fits(expected, &id, message) {
            return Err(Unfit { table, error: misfit_error(&misfit, &expected.schema.id) });
        }
        let type_oids = || message.columns().map(|column| column.type_oid).collect();
        expected.shape.get_or_insert_with(|| CataloguedTable { oid: message.id, type_oids: type_oids() });
        self.by_relation.insert(message.id, Known::Table(table));
        Ok(())
    }
}

fn fits(expected: &Expected, id: &TableId, message: &RelationMessage<'_>) -> Result<(), String> {
    let schema = &expected.schema;
    if *id != schema.id {
        return Err(format!("it is called {id} in the log"));
    }
    if expected.shape.as_ref().is_some_and(|shape| shape.oid != message.id) {
        return Err("it was dropped and created again".to_owned());
    }
    let columns: Vec<_> = message.columns().collect();
    if let Some(new) =
        columns.iter().find(|column| schema.columns.iter().all(|known| known.name != column.name))
    {
        return Err(format!("the log has a column {} that is not known", new.name));
    }
    if let Some(gone) =
        schema.columns.iter().find(|known| columns.iter().all(|column| column.name != known.name))
    {
        return Err(format!("the log does not have the column {}", gone.name));
    }
    if columns.len() != schema.columns.len()
        || columns.iter().zip(&schema.columns).any(|(column, known)| column.name != known.name)
    {
        return Err("its columns come in another order".to_owned());
    }
    if let Some(shape) = &expected.shape
        && let Some(changed) =
            columns.iter().zip(&shape.type_oids).find(|(column, oid)| column.type_oid != **oid)
    {
        return Err(format!("the column {} has another type in the log", changed.0.name));
    }
    let identity: Vec<bool> = columns.iter().map(|column| column.is_identity).collect();
    identifies(schema, message.identity, &identity)
}

/// Whether the replica identity sends what the row key needs.
fn identifies(schema: &TableSchema, identity: u8, is_identity: &[bool]) -> Result<(), String> {
    if identity == b'f' {
        return Ok(());
    }
    let is_key = |column: usize| schema.row_key.contains(&column);
    if schema.has_row_key() && (0..is_identity.len()).any(|column| is_identity[column] != is_key(column)) {
        return Err("its replica identity is not the row key any more".to_owned());
    }
    // Without any identity the server lets only inserts through, which need none.
    if !schema.has_row_key() && is_identity.contains(&true) {
        return Err("its replica identity was the whole row and is not any more".to_owned());
    }
    Ok(())
}

fn misfit_error(why: &str, table: &TableId) -> Error {
    let message = format!("the stream describes the table otherwise than it is known: {why}");
    Error::new(ErrorKind::Data, message).with_table(table).with_remedy(
        "run the same command again with --prepare recreate, which makes the tables that have stopped anew; or change the \
         destination's table as the source's was changed, and run with --prepare truncate",
    )
}

#[cfg(test)]
mod tests {
    use super::super::pgoutput::Message;
    use super::super::samples;
    use super::*;

    fn relations(row_key: &[usize]) -> Relations {
        let shape = CataloguedTable { oid: 9, type_oids: vec![25, 25] };
        Relations::new(
            &[samples::table("t", &["a", "b"], row_key)],
            HashMap::from([(TableId::new("public", "t"), shape)]),
        )
    }

    fn describe(relations: &mut Relations, message: &[u8]) -> Result<(), String> {
        let Ok(Message::Relation(message)) = Message::parse(message) else { panic!() };
        relations.describe(&message).map_err(|unfit| {
            assert_eq!(unfit.table, 0);
            assert!(unfit.error.remedy().is_some());
            unfit.error.to_string()
        })
    }

    const FITTING: [(&str, u32, bool); 2] = [("a", 25, true), ("b", 25, false)];

    #[test]
    fn trap_7_only_the_table_as_it_is_known_fits() {
        let misfits: [(&str, Vec<u8>); 8] = [
            ("is called public.u", samples::relation(9, "public", "u", b'd', &FITTING)),
            ("dropped and created", samples::relation(8, "public", "t", b'd', &FITTING)),
            ("not known", samples::relation(9, "public", "t", b'd', &[("a", 25, true), ("c", 25, false)])),
            ("does not have", samples::relation(9, "public", "t", b'd', &[("a", 25, true)])),
            (
                "another order",
                samples::relation(9, "public", "t", b'd', &[("b", 25, true), ("a", 25, false)]),
            ),
            ("another type", samples::relation(9, "public", "t", b'd', &[("a", 23, true), ("b", 25, false)])),
            (
                "replica identity",
                samples::relation(9, "public", "t", b'i', &[("a", 25, false), ("b", 25, true)]),
            ),
            (
                "replica identity",
                samples::relation(9, "public", "t", b'n', &[("a", 25, false), ("b", 25, false)]),
            ),
        ];
        for (why, message) in misfits {
            let mut relations = relations(&[0]);
            let error = describe(&mut relations, &message).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let mut relations = relations(&[0]);
        describe(&mut relations, &samples::relation(9, "public", "t", b'd', &FITTING)).unwrap();
        assert_eq!(relations.get(9), Some(Known::Table(0)));
        assert_eq!(relations.get(10), None);
        relations.forget_connection();
        assert_eq!(relations.get(9), None);
    }

    #[test]
    fn trap_11_identity_coverage_is_watched_while_the_stream_runs() {
        let full = [("a", 25, true), ("b", 25, true)];
        let mut keyless = relations(&[]);
        describe(&mut keyless, &samples::relation(9, "public", "t", b'f', &full)).unwrap();
        let error = describe(&mut keyless, &samples::relation(9, "public", "t", b'd', &FITTING)).unwrap_err();
        assert!(error.contains("whole row"), "{error}");
        assert_eq!(keyless.get(9), Some(Known::Ignored));
        let mut keyed = relations(&[0]);
        describe(&mut keyed, &samples::relation(9, "public", "t", b'f', &full)).unwrap();
    }

    #[test]
    fn tables_of_others_are_ignored_and_equal_names_in_other_schemas_are_others() {
        let mut relations = relations(&[0]);
        describe(&mut relations, &samples::relation(10, "other", "t", b'd', &FITTING)).unwrap();
        assert_eq!(relations.get(10), Some(Known::Ignored));
    }
}
