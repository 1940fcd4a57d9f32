//! Which rows of a table the server keeps apart.

use syncline_core::unique::{UniqueColumns, UniqueIndexes};
use syncline_core::{Result, TableId};

use crate::postgres::connect::Session;
use crate::postgres::{error, quote};

/// What is enforced on a table, also by an index that is not valid yet: it refuses new rows all the same.
pub(super) async fn indexes(session: &Session, table: &TableId) -> Result<UniqueIndexes> {
    // Before version 15 there is no column that says it, and NULLs are always distinct.
    let sql = "
        SELECT ic.relname::text, i.indisunique AND i.indexprs IS NULL AND i.indpred IS NULL
                 AND NOT EXISTS (SELECT FROM pg_collation c WHERE c.oid = ANY (i.indcollation::oid[]) AND NOT c.collisdeterministic),
               ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place)
                     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                     WHERE k.place <= i.indnkeyatts ORDER BY k.place),
               coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false)
        FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
        WHERE i.indrelid = $1::text::regclass AND i.indislive AND (i.indisunique OR i.indisexclusion)
        ORDER BY ic.relname";
    let rows = session.query(sql, &[&quote::table(table)]).await;
    let rows = rows.map_err(|e| error::from_client(e, "reading unique indexes").with_table(table))?;
    let mut found = UniqueIndexes::default();
    for row in &rows {
        if row.get(1) {
            found.plain.push(UniqueColumns { columns: row.get(2), nulls_are_equal: row.get(3) });
        } else {
            found.others.push(row.get(0));
        }
    }
    Ok(found)
}
