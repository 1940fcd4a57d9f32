//! A small shop: tables that point at each other, and orders that come in.

use tokio_postgres::{Client, Error};

use super::random::Random;
use super::writer::Writer;
use crate::postgres::Postgres;

const TABLES: &str = "CREATE SCHEMA shop;
    CREATE TYPE shop.standing AS ENUM ('new', 'paid', 'sent', 'returned');
    CREATE TABLE shop.customer (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL UNIQUE,
        name varchar(80) NOT NULL, joined_at timestamptz NOT NULL DEFAULT now(), preferences jsonb);
    CREATE TABLE shop.product (sku text PRIMARY KEY, title text NOT NULL, price numeric(12, 2) NOT NULL CHECK (price >= 0),
        tags text[] NOT NULL DEFAULT '{}', picture bytea);
    CREATE TABLE shop.purchase (id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        customer bigint NOT NULL REFERENCES shop.customer ON UPDATE CASCADE, standing shop.standing NOT NULL DEFAULT 'new',
        ordered_at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE INDEX ON shop.purchase (customer, ordered_at DESC);
    CREATE TABLE shop.line (purchase uuid REFERENCES shop.purchase ON DELETE CASCADE, number int, sku text NOT NULL REFERENCES shop.product,
        quantity int NOT NULL, PRIMARY KEY (purchase, number));
    CREATE INDEX ON shop.line (sku) WHERE quantity > 1;";

/// Products at the start; the writer adds none.
const PRODUCTS: u32 = 500;

/// Creates the tables in schema `shop`, with products and `customers` customers.
///
/// # Panics
/// If the server refuses.
pub async fn create(server: &Postgres, database: &str, customers: u32) {
    server.execute(database, TABLES).await;
    let fill = format!(
        "INSERT INTO shop.product SELECT 'sku-' || i, 'Product ' || i, i * 1.10, ARRAY['t' || i % 7, NULL], decode(md5(i::text), 'hex')
             FROM generate_series(0, {PRODUCTS} - 1) i;
         INSERT INTO shop.customer (email, name, preferences) SELECT 'c' || i || '@example.org', 'Customer ' || i,
             jsonb_build_object('n', i, 'news', i % 2 = 0) FROM generate_series(1, {customers}) i"
    );
    server.execute(database, &fill).await;
}

/// Starts a writer: orders with several lines, payments, returns that cascade, customers who change their address.
#[must_use]
pub fn start(server: &Postgres, database: &str, seed: u64) -> Writer {
    let mut random = Random::new(seed);
    Writer::start("shop", server.url(database), async move |client: &Client| step(client, &mut random).await)
}

async fn step(client: &Client, random: &mut Random) -> Result<(), Error> {
    const SOME_PURCHASE: &str =
        "(SELECT id FROM shop.purchase WHERE id >= md5('$n')::uuid ORDER BY id LIMIT 1)";
    const SOME_CUSTOMER: &str =
        "(SELECT id FROM shop.customer ORDER BY id OFFSET $n % (SELECT count(*) FROM shop.customer) LIMIT 1)";
    let sql = match random.below(10) {
        0..=4 => format!(
            "WITH p AS (INSERT INTO shop.purchase (id, customer) VALUES (md5('$m')::uuid, {SOME_CUSTOMER}) RETURNING id)
             INSERT INTO shop.line SELECT id, g, 'sku-' || ($n::bigint + g) % {PRODUCTS}, 1 + g % 3
             FROM p, generate_series(1, 1 + $n % 5) g"
        ),
        5..=7 => format!("UPDATE shop.purchase SET standing = (ARRAY['paid', 'sent', 'returned'])[1 + $n % 3]::shop.standing WHERE id = {SOME_PURCHASE}"),
        8 => format!("DELETE FROM shop.purchase WHERE id = {SOME_PURCHASE}"),
        _ => format!("UPDATE shop.customer SET email = 'moved-$n@example.org' WHERE id = {SOME_CUSTOMER}"),
    };
    let sql =
        sql.replace("$n", &random.below(u32::MAX >> 1).to_string()).replace("$m", &random.bits().to_string());
    client.batch_execute(&sql).await
}
