//! Which rows of a table the server keeps apart.

use syncline_core::unique::{EnforcedIndex, UniqueColumns, UniqueIndexes};
use syncline_core::{Result, TableId};

use crate::postgres::connect::Session;
use crate::postgres::{error, quote};

/// Types whose values are equal just if their bytes are, by their fixed identifiers: truth values, bytes, names, whole numbers,
/// text, addresses, dates and times, bits, log positions, UUIDs. Enums are, too. Not here: floats (−0), decimals (1.0 and 1.00),
/// padded text, intervals, JSON, and whatever an extension brings.
const BY_BYTES: [u32; 21] =
    [16, 17, 18, 19, 20, 21, 23, 25, 26, 650, 774, 829, 869, 1043, 1082, 1083, 1114, 1184, 1560, 2950, 3220];

/// What is enforced on a table, also by an index that is not valid (yet): it refuses new rows all the same. Indexes of single
/// partitions are among the others.
pub(super) async fn indexes(session: &Session, table: &TableId) -> Result<UniqueIndexes> {
    // Before version 15 there is no column that says it, and NULLs are always distinct. An index WITHOUT OVERLAPS is both unique
    // and an exclusion.
    let sql = "
        SELECT ic.relname::text,
               i.indrelid = t.oid AND i.indisunique AND NOT i.indisexclusion AND i.indexprs IS NULL AND i.indpred IS NULL
                 AND NOT EXISTS (SELECT FROM pg_collation c WHERE c.oid = ANY (i.indcollation::oid[]) AND NOT c.collisdeterministic),
               k.names, coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false), k.by_bytes, i.indisvalid
        FROM (SELECT $1::text::regclass::oid) t(oid)
        JOIN pg_index i ON i.indrelid = t.oid
          OR i.indrelid IN (SELECT relid FROM pg_partition_tree(t.oid) WHERE level > 0)
            AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)
        JOIN pg_class ic ON ic.oid = i.indexrelid
        CROSS JOIN LATERAL (
          SELECT coalesce(array_agg(a.attname::text ORDER BY k.place), '{}') AS names,
                 coalesce(bool_and(a.atttypid = ANY ($2::oid[]) OR ty.typtype = 'e'), false) AS by_bytes
          FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place)
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
          JOIN pg_type ty ON ty.oid = a.atttypid
          WHERE k.place <= i.indnkeyatts) k
        WHERE i.indislive AND (i.indisunique OR i.indisexclusion)
        ORDER BY ic.relname";
    let rows = session.query(sql, &[&quote::table(table), &&BY_BYTES[..]]).await;
    let rows = rows.map_err(|e| error::from_client(e, "reading unique indexes").with_table(table))?;
    let mut found = UniqueIndexes::default();
    for row in &rows {
        let name = row.get(0);
        if row.get(1) {
            let of = UniqueColumns { columns: row.get(2), nulls_are_equal: row.get(3) };
            found.plain.push(EnforcedIndex { name, of, by_bytes: row.get(4), valid: row.get(5) });
        } else {
            found.others.push(name);
        }
    }
    Ok(found)
}
