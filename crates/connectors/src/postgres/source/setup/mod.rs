//! Publication and slot of a pipeline: made, found, measured, dropped.
//!
//! Publication first, then slot: what the log holds before a publication exists cannot be decoded through it. Everything
//! that would forbid the stream, or make a write of the source's own users fail, is refused before either is made. All
//! of it may be repeated; a crash between any two steps is mended by the next call.

mod publication;
mod slot;
mod wait;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use syncline_core::{
    ChangeStream, Error, Origin, PipelineName, Position, Result, Retained, StreamRequest, Streams, TableId,
    failpoint,
};

use super::catalog::Catalog;
use super::check::server::Server;
use super::{PostgresSource, check, parts, stream};
use crate::postgres::connect::Session;
use crate::postgres::lsn::Lsn;
use crate::postgres::{error, quote};

/// Bytes of a WAL page's header, and of the longer one at a segment's start.
const PAGE_HEADER_BYTES: u64 = 24;
const SEGMENT_HEADER_BYTES: u64 = 40;

/// Slot and publication of a pipeline have this name.
fn name_of(pipeline: &PipelineName) -> String {
    format!("syncline_{pipeline}")
}

#[async_trait]
impl Streams for PostgresSource {
    async fn open(&self, request: &StreamRequest) -> Result<Origin> {
        let session = self.pool.take().await?;
        let name = name_of(&request.pipeline);
        let wanted: BTreeSet<&TableId> = request.tables.iter().map(|table| &table.id).collect();
        let server = Server::read(&session).await?;
        let catalog = Catalog::read(&session, |id| wanted.contains(id)).await?;
        let found = slot::find(&session, &name).await?;
        if let Some(refusal) = check::refusal(&server, &catalog, &request.tables, found.is_none()) {
            return Err(refusal);
        }
        let members = publication::members(&catalog, &request.tables);
        publication::ensure(&session, &server, &name, &members, found.is_some()).await?;
        let (slot, created) = match found {
            Some(slot) => (slot.usable(&self.pool, &name).await?, false),
            None => (Some(slot::make(&session, &name).await?), true),
        };
        // Only what another process left half made is gone by now.
        let (confirmed, created) = match slot {
            Some(confirmed) => (confirmed, created),
            None => (slot::make(&session, &name).await?, true),
        };
        failpoint::hit("slot_made")?;
        let (identity, _) = standing(&session).await?;
        let barrier = wait::barrier(&session).await?;
        self.pool.give(session);
        Ok(Origin {
            confirmed: confirmed.position(),
            created,
            identity: format!("{identity}/{name}"),
            barrier,
        })
    }

    async fn opening_waits_for(&self, pipeline: &PipelineName) -> Result<Option<String>> {
        let session = self.pool.take().await?;
        let who = match slot::is_being_made(&session, &name_of(pipeline)).await? {
            true => Some(wait::maker_waits_for(&session).await?),
            false => None,
        };
        self.pool.give(session);
        Ok(who)
    }

    async fn captured(&self, pipeline: &PipelineName) -> Result<Option<BTreeSet<TableId>>> {
        let session = self.pool.take().await?;
        let captured = publication::captured(&session, &name_of(pipeline)).await?;
        self.pool.give(session);
        Ok(captured)
    }

    async fn parts(&self, tables: &[TableId]) -> Result<BTreeMap<TableId, BTreeMap<String, String>>> {
        let found = parts::leaves(&self.pool, tables).await?;
        let shown = |leaves: BTreeMap<String, TableId>| {
            leaves.into_iter().map(|(part, leaf)| (part, leaf.to_string())).collect()
        };
        Ok(found.into_iter().map(|(table, leaves)| (table, shown(leaves))).collect())
    }

    async fn filled(&self, table: &TableId, parts: &BTreeSet<String>) -> Result<BTreeSet<String>> {
        parts::filled(&self.pool, table, parts).await
    }

    async fn settled(&self, origin: &Origin) -> Result<Option<String>> {
        let session = self.pool.take().await?;
        let who = wait::blocker(&session, &origin.barrier).await?;
        self.pool.give(session);
        Ok(who)
    }

    async fn stream(
        &self,
        request: &StreamRequest,
        from: &Position,
        target: Option<&Position>,
    ) -> Result<Box<dyn ChangeStream>> {
        stream::open(self.pool.address(), request, from, target).await
    }

    async fn end(&self) -> Result<Position> {
        let session = self.pool.take().await?;
        let (_, end) = standing(&session).await?;
        self.pool.give(session);
        Ok(end.position())
    }

    fn distance(&self, from: &Position, to: &Position) -> u64 {
        let (from, to) = (from.as_u64().unwrap_or_default(), to.as_u64().unwrap_or_default());
        to.saturating_sub(from)
    }

    fn show(&self, position: &Position) -> String {
        Lsn::of(position).map_or_else(|_| position.to_string(), |lsn| lsn.to_string())
    }

    async fn retained(&self, pipeline: &PipelineName) -> Result<Option<Retained>> {
        let session = self.pool.take().await?;
        let retained = slot::retained(&session, &name_of(pipeline)).await?;
        self.pool.give(session);
        Ok(retained)
    }

    async fn drop_pipeline(&self, pipeline: &PipelineName) -> Result<()> {
        let session = self.pool.take().await?;
        let name = name_of(pipeline);
        slot::drop(&session, &name).await?;
        failpoint::hit("drop_half_done")?;
        let statement = format!("DROP PUBLICATION IF EXISTS {}", quote::ident(&name));
        let dropped = session.batch_execute(&statement).await;
        dropped.map_err(|e| error::from_client(e, "dropping the publication"))?;
        self.pool.give(session);
        Ok(())
    }
}

/// What identifies the log, and its end.
///
/// The timeline is that of the place where WAL is written now; the control file's would lag behind a promotion.
async fn standing(session: &Session) -> Result<(String, Lsn)> {
    let sql = "
        SELECT (SELECT system_identifier::text FROM pg_control_system()), here.lsn::text,
               ('x' || substr(pg_walfile_name(here.lsn), 1, 8))::bit(32)::int,
               current_setting('wal_block_size')::int8, pg_size_bytes(current_setting('wal_segment_size'))
        FROM (SELECT pg_current_wal_insert_lsn() AS lsn) here";
    let row = session.query_one(sql, &[]).await;
    let row = row.map_err(|e| error::from_client(e, "reading the end of the log"))?;
    let end: Lsn = row.get::<_, &str>(1).parse()?;
    let (page, segment) = (row.get::<_, i64>(3).unsigned_abs(), row.get::<_, i64>(4).unsigned_abs());
    let identity = format!("{}/{}", row.get::<_, &str>(0), row.get::<_, i32>(2));
    Ok((identity, before_header(end, page, segment)?))
}

/// The insert position skips a page's header before anything stands on the page: no record ends there, and what has been
/// committed ends at the page's start.
fn before_header(end: Lsn, page: u64, segment: u64) -> Result<Lsn> {
    let inside =
        end.0.checked_rem(page).ok_or_else(|| Error::conflict("the server has WAL pages of no size"))?;
    let first_page = end.0.checked_rem(segment).is_some_and(|inside| inside < page);
    let header = if first_page { SEGMENT_HEADER_BYTES } else { PAGE_HEADER_BYTES };
    Ok(if inside <= header { Lsn(end.0 - inside) } else { end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_on_a_pages_header_is_the_pages_start() {
        let end = |lsn| before_header(Lsn(lsn), 8192, 16 << 20).unwrap().0;
        assert_eq!(end(8192 * 5 + 24), 8192 * 5);
        assert_eq!(end(8192 * 5 + 32), 8192 * 5 + 32);
        assert_eq!(end((16 << 20) + 40), 16 << 20);
        assert_eq!(end((16 << 20) + 48), (16 << 20) + 48);
        assert!(before_header(Lsn(1), 0, 0).is_err());
    }
}
