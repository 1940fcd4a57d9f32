//! A table with a column of every kind of built-in type, and of the kinds a user can define.

use std::ops::RangeInclusive;

use tokio_postgres::Client;

use crate::postgres::Postgres;

const TABLE: &str = include_str!("wide.sql");
/// Selects whole rows with keys `$first` to `$last`.
const ROWS: &str = include_str!("wide_rows.sql");
/// What the rows give: all but what the server itself fills.
const GIVEN: &str = "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = 'wide.everything'::regclass AND attnum > 0 AND attgenerated = '' AND attidentity = ''";
/// An update keeps the key, and the TOAST: that is the case that matters.
const UPDATED: &str = "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = 'wide.everything'::regclass AND attnum > 1 AND attgenerated = '' AND attidentity = ''
    AND attname <> 'a_toast'";

/// Creates `wide.everything` and its types, with rows of special values: keys −1 to −11.
///
/// # Panics
/// If the server refuses.
pub async fn create(server: &Postgres, database: &str) {
    // Negative scales came with PostgreSQL 15.
    let table = match server.installation().major() {
        ..15 => TABLE.replace("numeric(5, -2)", "numeric(5)"),
        _ => TABLE.to_owned(),
    };
    server.execute(database, &table).await;
}

/// Inserts ordinary rows with these keys.
///
/// # Panics
/// If the server refuses.
pub async fn insert(server: &Postgres, database: &str, keys: RangeInclusive<i32>) {
    let client = server.client(database).await;
    let columns = column_list(&client, GIVEN).await;
    run(&client, &format!("INSERT INTO wide.everything ({columns}) SELECT {columns} FROM ({ROWS}) r"), keys)
        .await;
}

/// Changes every column but the key and the TOASTed text of the rows with these keys, in one transaction.
///
/// # Panics
/// If the server refuses.
pub async fn update(server: &Postgres, database: &str, keys: RangeInclusive<i32>) {
    let client = server.client(database).await;
    let columns = column_list(&client, UPDATED).await;
    let later = keys.start() + 7..=keys.end() + 7;
    let sql = format!(
        "UPDATE wide.everything e SET ({columns}) = (SELECT {columns} FROM ({ROWS}) r WHERE r.id = e.id + 7)"
    );
    // Rows are computed once, not once per row.
    let sql = format!(
        "CREATE TEMP TABLE later AS {ROWS}; CREATE INDEX ON later (id); {}",
        sql.replace(ROWS, "SELECT * FROM later")
    );
    run(&client, &format!("{sql} WHERE e.id BETWEEN $first - 7 AND $last - 7"), later).await;
}

async fn column_list(client: &Client, query: &str) -> String {
    client.query_one(query, &[]).await.expect("cannot read the catalogue").get(0)
}

async fn run(client: &Client, sql: &str, keys: RangeInclusive<i32>) {
    let sql = sql.replace("$first", &keys.start().to_string()).replace("$last", &keys.end().to_string());
    client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{error:?}"));
}
