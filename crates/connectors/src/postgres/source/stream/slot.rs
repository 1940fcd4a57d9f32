//! What the server says of our slot, and what we tell it by SQL.

use std::collections::HashMap;
use std::sync::Arc;

use syncline_core::{Error, PipelineName, Result, TableId, TableSchema};

use super::super::super::lsn::Lsn;
use super::super::super::quote;
use super::relation::CataloguedTable;
use super::wire::{TextRows, Wire, server_error};

/// What the server is asked to send, and under which names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subscription {
    /// Slot and publication have the same name.
    pub(super) name: String,
    /// Whether values come in binary form where their type has one.
    pub(super) binary: bool,
}

impl Subscription {
    pub(super) fn new(pipeline: &PipelineName, binary: bool) -> Self {
        Self { name: format!("syncline_{pipeline}"), binary }
    }

    /// Options of the output plugin. Publication names are a list of identifiers, so ours is quoted as one.
    pub(super) fn options(&self) -> Vec<(&'static str, String)> {
        let mut options = vec![
            ("proto_version", "2".to_owned()),
            ("publication_names", quote::ident(&self.name)),
            ("messages", "true".to_owned()),
        ];
        if self.binary {
            options.push(("binary", "true".to_owned()));
        }
        options
    }
}

/// Where the slot and the log stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlotState {
    /// End of what is flushed.
    pub(super) flushed: Lsn,
    /// Transactions before it are not sent again.
    pub(super) confirmed: Lsn,
    /// Where decoding begins.
    pub(super) restart: Lsn,
}

/// Reads where slot and log stand.
///
/// # Errors
/// A conflict if slot or publication are gone or the slot has lost its log.
pub(super) async fn state(sql: &mut Wire, subscription: &Subscription) -> Result<SlotState> {
    let name = quote::literal(&subscription.name);
    let rows = sql
        .query(&format!(
            "SELECT pg_catalog.pg_current_wal_flush_lsn(), s.confirmed_flush_lsn, s.restart_lsn, s.wal_status = 'lost', \
                    EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = {name}) \
             FROM (SELECT) AS here LEFT JOIN pg_catalog.pg_replication_slots AS s \
               ON s.slot_name = {name} AND s.database = pg_catalog.current_database()"
        ))
        .await?;
    let row = rows.first().map(Vec::as_slice).unwrap_or_default();
    let column = |index: usize| row.get(index).and_then(Option::as_deref);
    let lsn = |index: usize| column(index).map(str::parse::<Lsn>).transpose();
    if column(4) != Some("t") {
        return Err(gone(&format!("publication {} is gone", subscription.name)));
    }
    match (lsn(0)?, lsn(1)?, lsn(2)?, column(3)) {
        (Some(flushed), Some(confirmed), Some(restart), Some("f")) => {
            Ok(SlotState { flushed, confirmed, restart })
        }
        (_, None, None, None) => Err(gone(&format!("slot {} is gone", subscription.name))),
        _ => Err(gone(&format!("slot {} has lost its log", subscription.name))),
    }
}

/// Refuses the one warning that means a gap: from PostgreSQL 18 on a stream goes on without a publication that is gone, and
/// leaves its tables' changes out. Older servers end it with an error of the same code.
///
/// # Errors
/// A conflict.
pub(super) fn check_warning(body: &[u8]) -> Result<()> {
    let warning = server_error(body);
    if warning.code() == Some("55000") {
        Err(gone("the publication is gone").with_source(warning))
    } else {
        Ok(())
    }
}

/// What was there when the stream began is gone: changes are missing.
pub(super) fn gone(what: &str) -> Error {
    Error::conflict(format!("{what}, and with it changes that were not read yet")).with_changes_missing()
}

/// Moves the slot to exactly `upto`. Everything before it must be durable.
///
/// # Errors
/// As any statement.
pub(super) async fn advance(sql: &mut Wire, subscription: &Subscription, upto: Lsn) -> Result<()> {
    let name = quote::literal(&subscription.name);
    sql.query(&format!("SELECT pg_catalog.pg_replication_slot_advance({name}, '{upto}')")).await.map(drop)
}

/// Writes one logical message, so that the log has something to flush and to send.
///
/// # Errors
/// As any statement.
pub(super) async fn emit_message(sql: &mut Wire) -> Result<()> {
    sql.query("SELECT pg_catalog.pg_logical_emit_message(false, 'syncline', '')").await.map(drop)
}

/// Sizes by which positions inside page headers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageSizes {
    page: u64,
    segment: u64,
}

const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;

impl PageSizes {
    /// # Errors
    /// As any statement.
    pub(super) async fn read(sql: &mut Wire) -> Result<Self> {
        let rows = sql
            .query("SELECT setting FROM pg_catalog.pg_settings WHERE name IN ('wal_block_size', 'wal_segment_size') ORDER BY name")
            .await?;
        let number = |row: usize| rows.get(row)?.first()?.as_ref()?.parse().ok().filter(|size| *size > 0);
        match (number(0), number(1)) {
            (Some(page), Some(segment)) => Ok(Self { page, segment }),
            _ => Err(Error::conflict("the server does not say how large its log pages are")),
        }
    }

    /// A position inside a page's header is the page's start: no record begins between the two.
    pub(super) fn before_header(self, position: Lsn) -> Lsn {
        let header = if position.0 % self.segment < self.page { SEGMENT_HEADER } else { PAGE_HEADER };
        let inside = position.0 % self.page;
        if inside <= header { Lsn(position.0 - inside) } else { position }
    }
}

/// Reads what the catalogue says of the pipeline's tables now. A table that is not there, or has not the pipeline's
/// columns any more, is left out.
///
/// # Errors
/// As any statement.
pub(super) async fn catalogue(
    sql: &mut Wire,
    tables: &[Arc<TableSchema>],
) -> Result<HashMap<TableId, CataloguedTable>> {
    if tables.is_empty() {
        return Ok(HashMap::new());
    }
    let name = |table: &Arc<TableSchema>| {
        format!("({}, {})", quote::literal(&table.id.schema), quote::literal(&table.id.name))
    };
    let names = tables.iter().map(name).collect::<Vec<_>>().join(", ");
    let rows = sql
        .query(&format!(
            "SELECT n.nspname, c.relname, c.oid, a.attname, a.atttypid \
             FROM pg_catalog.pg_class AS c \
               JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
               JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid \
             WHERE a.attnum > 0 AND NOT a.attisdropped AND (n.nspname, c.relname) IN ({names})"
        ))
        .await?;
    Ok(in_shape(tables, &rows))
}

fn in_shape(tables: &[Arc<TableSchema>], rows: &TextRows) -> HashMap<TableId, CataloguedTable> {
    let mut found: HashMap<TableId, (u32, HashMap<&str, u32>)> = HashMap::new();
    for row in rows {
        let [Some(schema), Some(name), Some(oid), Some(column), Some(type_oid)] = row.as_slice() else {
            continue;
        };
        let (Ok(oid), Ok(type_oid)) = (oid.parse(), type_oid.parse()) else { continue };
        let table = found.entry(TableId::new(schema, name)).or_insert_with(|| (oid, HashMap::new()));
        table.1.insert(column, type_oid);
    }
    let shape = |table: &Arc<TableSchema>| {
        let (oid, types) = found.get(&table.id)?;
        let type_oids = table.columns.iter().map(|column| types.get(column.name.as_str()).copied());
        Some((table.id.clone(), CataloguedTable { oid: *oid, type_oids: type_oids.collect::<Option<_>>()? }))
    };
    tables.iter().filter_map(shape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_in_a_page_header_is_the_start_of_the_page() {
        let sizes = PageSizes { page: 8192, segment: 16 << 20 };
        let segment = 5 * (16 << 20);
        assert_eq!(sizes.before_header(Lsn(segment + 40)), Lsn(segment));
        assert_eq!(sizes.before_header(Lsn(segment + 48)), Lsn(segment + 48));
        assert_eq!(sizes.before_header(Lsn(segment + 8192 + 24)), Lsn(segment + 8192));
        assert_eq!(sizes.before_header(Lsn(segment + 8192 + 32)), Lsn(segment + 8192 + 32));
        assert_eq!(sizes.before_header(Lsn(segment + 16384)), Lsn(segment + 16384));
    }
}
