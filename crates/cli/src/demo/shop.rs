//! The shop: its tables, and how their first rows come about.
//!
//! Between them the tables have what real databases have: foreign keys that cascade, keys of every sort (rowid, text,
//! composite, with and without a rowid beside them), secondary unique columns, and in `everything` each class of value SQLite knows, with its extremes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::types::Value;
use rusqlite::{Connection, Transaction, params};

use super::random::Random;
use super::values;

/// A table, for the comparison: its name and the order in which its rows are unmistakable.
pub(super) struct Table {
    pub(super) name: &'static str,
    /// Columns of the key.
    pub(super) order: &'static [&'static str],
}

/// All tables of the shop.
pub(super) const TABLES: &[Table] = &[
    Table { name: "customers", order: &["id"] },
    Table { name: "products", order: &["sku"] },
    Table { name: "orders", order: &["id"] },
    Table { name: "order_items", order: &["order_id", "line"] },
    Table { name: "reviews", order: &["id"] },
    Table { name: "everything", order: &["id"] },
    Table { name: "visits", order: &["visited_at", "page"] },
];

const SCHEMA: &str = "
CREATE TABLE customers (
    id INTEGER PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    country VARCHAR(2),
    credit REAL NOT NULL DEFAULT 0,
    joined_at DATETIME NOT NULL,
    preferences TEXT
);
CREATE TABLE products (
    sku TEXT PRIMARY KEY NOT NULL,
    title TEXT NOT NULL,
    price_cents INTEGER NOT NULL,
    weight_kg REAL,
    picture BLOB,
    stock INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customers (id) ON UPDATE CASCADE ON DELETE CASCADE,
    status TEXT NOT NULL,
    placed_at DATETIME NOT NULL,
    total_cents INTEGER NOT NULL,
    note TEXT
);
CREATE INDEX orders_by_customer ON orders (customer_id);
CREATE TABLE order_items (
    order_id INTEGER NOT NULL REFERENCES orders (id) ON UPDATE CASCADE ON DELETE CASCADE,
    line INTEGER NOT NULL,
    sku TEXT NOT NULL REFERENCES products (sku) ON UPDATE CASCADE,
    quantity INTEGER NOT NULL,
    price_cents INTEGER NOT NULL,
    PRIMARY KEY (order_id, line)
) WITHOUT ROWID;
CREATE INDEX order_items_by_sku ON order_items (sku);
CREATE TABLE reviews (
    id INTEGER PRIMARY KEY,
    sku TEXT NOT NULL REFERENCES products (sku) ON UPDATE CASCADE ON DELETE CASCADE,
    customer_id INTEGER REFERENCES customers (id) ON UPDATE CASCADE ON DELETE SET NULL,
    stars INTEGER NOT NULL CHECK (stars BETWEEN 1 AND 5),
    body TEXT
);
CREATE INDEX reviews_by_sku ON reviews (sku);
CREATE INDEX reviews_by_customer ON reviews (customer_id);
CREATE TABLE everything (
    id INTEGER PRIMARY KEY,
    whole INTEGER,
    fraction REAL,
    words TEXT,
    bytes BLOB,
    amount NUMERIC(20, 4),
    flag BOOLEAN,
    anything
);
CREATE TABLE visits (
    visited_at INTEGER NOT NULL,
    page TEXT NOT NULL,
    customer_id INTEGER,
    times INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (visited_at, page)
);
";

/// How many rows each table begins with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) customers: i64,
    pub(super) products: i64,
    pub(super) orders: i64,
    pub(super) items: i64,
    pub(super) reviews: i64,
    pub(super) everything: i64,
    pub(super) visits: i64,
}

impl Size {
    /// `rows` over all tables.
    pub(super) fn of(rows: u64) -> Self {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        let part = |percent: i64| (rows / 100 * percent).max(4);
        let size = Self {
            customers: part(8),
            products: part(2),
            orders: part(25),
            items: 0,
            reviews: part(6),
            everything: part(5),
            visits: part(5),
        };
        Self { items: (rows - size.rows()).max(4), ..size }
    }

    /// Rows over all tables.
    pub(super) fn rows(&self) -> i64 {
        self.customers
            + self.products
            + self.orders
            + self.items
            + self.reviews
            + self.everything
            + self.visits
    }
}

/// Makes the shop in a new file. Ends early, with what is there, when `stop` is set.
pub(super) fn build(path: &Path, size: Size, seed: u64, stop: &AtomicBool) -> rusqlite::Result<()> {
    let mut connection = Connection::open(path)?;
    // Readers then never wait for the writer, nor it for them.
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.execute_batch(SCHEMA)?;
    let mut random = Random::new(seed);
    let fills: [Fill; 7] = [customers, products, orders, items, reviews, everything, visits];
    for fill in fills {
        let transaction = connection.transaction()?;
        fill(&transaction, size, &mut random, stop)?;
        transaction.commit()?;
    }
    Ok(())
}

type Fill = fn(&Transaction<'_>, Size, &mut Random, &AtomicBool) -> rusqlite::Result<()>;

/// The numbers from 1 to `end`, cut short when `stop` is set.
fn numbers<'a>(end: i64, stop: &'a AtomicBool) -> impl Iterator<Item = i64> + 'a {
    (1..=end).take_while(move |n| n % 1024 != 0 || !stop.load(Ordering::Relaxed))
}

/// A product's key at the start.
pub(super) fn sku(number: i64) -> String {
    format!("SKU-{number:07}")
}

fn customers(
    to: &Transaction<'_>,
    size: Size,
    random: &mut Random,
    stop: &AtomicBool,
) -> rusqlite::Result<()> {
    let mut insert = to.prepare("INSERT INTO customers VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    for id in numbers(size.customers, stop) {
        let preferences =
            random.once_in(3).then(|| format!("{{\"newsletter\":{},\"n\":{}}}", random.once_in(2), id));
        insert.execute(params![
            id,
            format!("customer{id}@example.com"),
            values::person(random),
            values::country(random),
            values::money(random),
            values::moment(random),
            preferences
        ])?;
    }
    Ok(())
}

fn products(
    to: &Transaction<'_>,
    size: Size,
    random: &mut Random,
    stop: &AtomicBool,
) -> rusqlite::Result<()> {
    let mut insert = to.prepare("INSERT INTO products VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for number in numbers(size.products, stop) {
        let length = random.below(400);
        let picture = random.once_in(2).then(|| random.bytes(length));
        let weight = (!random.once_in(5)).then(|| values::money(random) / 10.0);
        insert.execute(params![
            sku(number),
            values::title(random),
            random.whole(100_000),
            weight,
            picture,
            random.whole(500)
        ])?;
    }
    Ok(())
}

fn orders(to: &Transaction<'_>, size: Size, random: &mut Random, stop: &AtomicBool) -> rusqlite::Result<()> {
    let mut insert = to.prepare("INSERT INTO orders VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for id in numbers(size.orders, stop) {
        let note = random.once_in(4).then(|| values::sentence(random));
        insert.execute(params![
            id,
            1 + random.whole(size.customers),
            values::status(random),
            values::moment(random),
            random.whole(500_000),
            note
        ])?;
    }
    Ok(())
}

fn items(to: &Transaction<'_>, size: Size, random: &mut Random, stop: &AtomicBool) -> rusqlite::Result<()> {
    let mut insert = to.prepare("INSERT INTO order_items VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for number in numbers(size.items, stop) {
        insert.execute(params![
            1 + (number - 1) % size.orders,
            1 + (number - 1) / size.orders,
            sku(1 + random.whole(size.products)),
            1 + random.whole(9),
            random.whole(100_000)
        ])?;
    }
    Ok(())
}

fn reviews(to: &Transaction<'_>, size: Size, random: &mut Random, stop: &AtomicBool) -> rusqlite::Result<()> {
    let mut insert = to.prepare("INSERT INTO reviews VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for id in numbers(size.reviews, stop) {
        let customer = (!random.once_in(10)).then(|| 1 + random.whole(size.customers));
        let body = (!random.once_in(4)).then(|| values::sentence(random));
        insert.execute(params![
            id,
            sku(1 + random.whole(size.products)),
            customer,
            1 + random.whole(5),
            body
        ])?;
    }
    Ok(())
}

fn everything(
    to: &Transaction<'_>,
    size: Size,
    random: &mut Random,
    stop: &AtomicBool,
) -> rusqlite::Result<()> {
    let mut insert = to.prepare(INSERT_EVERYTHING)?;
    for id in numbers(size.everything, stop) {
        insert.execute(rusqlite::params_from_iter(everything_row(id, random)))?;
    }
    Ok(())
}

/// Takes [`everything_row`].
pub(super) const INSERT_EVERYTHING: &str = "INSERT INTO everything VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

/// A row of every value class.
pub(super) fn everything_row(id: i64, random: &mut Random) -> [Value; 8] {
    [
        Value::Integer(id),
        values::whole(random),
        values::fraction(random),
        values::words(random),
        values::blob(random),
        values::amount(random),
        values::flag(random),
        values::anything(random),
    ]
}

fn visits(to: &Transaction<'_>, size: Size, random: &mut Random, stop: &AtomicBool) -> rusqlite::Result<()> {
    let mut insert = to.prepare("INSERT INTO visits VALUES (?1, ?2, ?3, ?4)")?;
    for number in numbers(size.visits, stop) {
        let customer = random.once_in(2).then(|| 1 + random.whole(size.customers));
        insert.execute(params![VISITS_BEGIN + number / PAGES, page(number % PAGES), customer, 1])?;
    }
    Ok(())
}

/// The first visit, in seconds since 1970.
pub(super) const VISITS_BEGIN: i64 = 1_750_000_000;
/// Pages that can be visited.
pub(super) const PAGES: i64 = 50;

/// A page's name.
pub(super) fn page(number: i64) -> String {
    format!("/page/{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shop_has_the_rows_asked_for_and_is_the_same_every_time() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.db"), dir.path().join("b.db"));
        for path in [&a, &b] {
            build(path, Size::of(3000), 1, &AtomicBool::new(false)).unwrap();
        }
        let result = super::super::compare::compare(&a, &b).unwrap();
        assert!(result.is_equal());
        assert_eq!(result.rows(), 3000);
        let violations: i64 = Connection::open(&a)
            .unwrap()
            .query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(violations, 0);
    }

    #[test]
    fn small_and_large_sizes_add_up() {
        for rows in [100, 240_000, 1_234_567] {
            assert_eq!(Size::of(rows).rows(), i64::try_from(rows).unwrap());
        }
    }
}
