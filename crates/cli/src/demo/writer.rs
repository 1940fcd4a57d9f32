//! The shop's busy day: one transaction after another, of every kind that makes keeping in sync hard.
//!
//! Keys move, two rows exchange the value of a unique column or their keys, `INSERT OR REPLACE` pushes another row out,
//! and deletes and key changes cascade.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Transaction, params, params_from_iter};
use serde::Serialize;

use super::random::Random;
use super::shop::{self, Size};
use super::values;

/// Pause after each burst: a shop that is busy, not a benchmark of SQLite.
const PAUSE: Duration = Duration::from_millis(8);
/// Transactions in a burst.
const BURST: usize = 4;
/// How long a transaction waits for the capture's own short writes.
const BUSY_MAX: Duration = Duration::from_secs(30);

/// What the writer did. Rows that cascades changed are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Tally {
    pub(super) transactions: u64,
    pub(super) inserted: u64,
    pub(super) updated: u64,
    pub(super) deleted: u64,
    pub(super) keys_moved: u64,
}

impl Tally {
    /// Rows changed.
    pub(super) fn rows(&self) -> u64 {
        self.inserted + self.updated + self.deleted + self.keys_moved
    }
}

/// Works on the shop for a while, or until `stop` is set.
pub(super) fn work(
    path: &Path,
    size: Size,
    seed: u64,
    time: Duration,
    stop: &AtomicBool,
) -> rusqlite::Result<Tally> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_MAX)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "synchronous", "normal")?;
    let mut day = Day { size, random: Random::new(seed), next_id: 10_000_000, tally: Tally::default() };
    let start = Instant::now();
    while start.elapsed() < time && !stop.load(Ordering::Relaxed) {
        for _ in 0..BURST {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            day.something(&transaction)?;
            transaction.commit()?;
            day.tally.transactions += 1;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(day.tally)
}

/// What the writer remembers from one transaction to the next.
struct Day {
    size: Size,
    random: Random,
    /// Ids that nobody has yet.
    next_id: i64,
    tally: Tally,
}

impl Day {
    fn something(&mut self, to: &Transaction<'_>) -> rusqlite::Result<()> {
        match self.random.below(100) {
            0..=29 => self.place_order(to),
            30..=49 => self.handle_order(to),
            50..=57 => self.review(to),
            58..=63 => self.cancel_order(to),
            64..=69 => self.move_key(to),
            70..=73 => self.exchange_emails(to),
            74..=76 => self.exchange_order_ids(to),
            77 => self.replace_customer(to),
            78..=89 => self.change_everything(to),
            _ => self.visit(to),
        }
    }

    fn new_id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }

    /// The first id at or after a random place, if the table has one there.
    fn some_id(&mut self, to: &Transaction<'_>, table: &str, end: i64) -> rusqlite::Result<Option<i64>> {
        // One time in four among the rows of this day.
        let from = if self.random.once_in(4) {
            10_000_000 + self.random.whole(self.next_id - 10_000_000)
        } else {
            self.random.whole(end)
        };
        to.prepare_cached(&format!("SELECT id FROM \"{table}\" WHERE id >= ?1 ORDER BY id LIMIT 1"))?
            .query_row([from], |row| row.get(0))
            .optional()
    }

    fn some_sku(&mut self, to: &Transaction<'_>) -> rusqlite::Result<String> {
        let from = shop::sku(1 + self.random.whole(self.size.products));
        let next = to
            .prepare_cached("SELECT sku FROM products WHERE sku >= ?1 ORDER BY sku LIMIT 1")?
            .query_row([from], |row| row.get(0))
            .optional()?;
        match next {
            Some(sku) => Ok(sku),
            None => to.query_row("SELECT max(sku) FROM products", [], |row| row.get(0)),
        }
    }

    fn place_order(&mut self, to: &Transaction<'_>) -> rusqlite::Result<()> {
        let Some(customer) = self.some_id(to, "customers", self.size.customers)? else { return Ok(()) };
        let id = self.new_id();
        let (status, moment) = ("placed", values::moment(&mut self.random));
        to.prepare_cached("INSERT INTO orders VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
            id,
            customer,
            status,
            moment,
            self.random.whole(500_000),
            values::sentence(&mut self.random)
        ])?;
        let lines = 1 + self.random.whole(4);
        for line in 1..=lines {
            let sku = self.some_sku(to)?;
            let quantity = 1 + self.random.whole(9);
            to.prepare_cached("INSERT INTO order_items VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
                id,
                line,
                sku,
                quantity,
                self.random.whole(100_000)
            ])?;
            let sold = to
                .prepare_cached("UPDATE products SET stock = stock - ?2 WHERE sku = ?1")?
                .execute(params![sku, quantity])?;
            self.tally.updated += sold as u64;
        }
        self.tally.inserted += 1 + lines.unsigned_abs();
        Ok(())
    }

    fn handle_order(&mut self, to: &Transaction<'_>) -> rusqlite::Result<()> {
        let Some(order) = self.some_id(to, "orders", self.size.orders)? else { return Ok(()) };
        let status = values::status(&mut self.random);
        let changed = to
            .prepare_cached("UPDATE orders SET status = ?2, note = coalesce(note, '') || ?2 WHERE id = ?1")?
            .execute(params![order, status])?;
        self.tally.updated += changed as u64;
        Ok(())
    }

    fn review(&mut self, to: &Transaction<'_>) -> rusqlite::Result<()> {
        let (sku, id) = (self.some_sku(to)?, self.new_id());
        let customer = self.some_id(to, "customers", self.size.customers)?;
        to.prepare_cached("INSERT INTO reviews VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
            id,
            sku,
            customer,
            1 + self.random.whole(5),
            values::sentence(&mut self.random)
        ])?;
        self.tally.inserted += 1;
        Ok(())
    }

    /// Cascades to the order's lines.
    fn cancel_order(&mut self, to: &Transaction<'_>) -> rusqlite::Result<()> {
        let Some(order) = self.some_id(to, "orders", self.size.orders)? else { return Ok(()) };
        let gone = to.prepare_cached("DELETE FROM orders WHERE id = ?1")?.execute([order])?;
        self.tally.deleted += gone as u64;
        Ok(())
    }

    /// A new key for an order, a customer or a product; what refers to it follows.
    fn move_key(&mut self, to: &Transaction<'_>) -> rusqlite::Result<()> {
        if self.random.once_in(3) {
            let (sku, new) = (self.some_sku(to)?, format!("NEW-{}", self.new_id()));
            let moved = to
                .prepare_cached("UPDATE products SET sku = ?2, stock = stock + 1 WHERE sku = ?1")?
                .execute(params![sku, new])?;
            self.tally.keys_moved += moved as u64;
            return Ok(());
        }
        let (table, end) = if self.random.once_in(3) {
            ("customers", self.size.customers)
        } else {
            ("orders", self.size.orders)
        };
        let Some(id) = self.some_id(to, table, end)? else { return Ok(()) };
        let moved = to
            .prepare_cached(&format!("UPDATE \"{table}\" SET id = ?2 WHERE id = ?1"))?
            .execute(params![id, self.new_id()])?;
        self.tally.keys_moved += moved as u64;
        Ok(())
    }

    fn exchange_emails(&mut self, to: &Transaction<'_>) -> rusqlite::Result<()> {
        let one = self.some_id(to, "customers", self.size.customers)?;
        let other = self.some_id(to, "customers", self.size.customers)?;
        let (Some(one), Some(other)) = (one, other) else { return Ok(()) };
        let email = |id: i64| {
            to.prepare_cached("SELECT email FROM customers WHERE id = ?1")?
                .query_row([id], |row| row.get::<_, String>(0))
        };
        let (first, second) = (email(one)?, email(other)?);
        for (id, email) in [(one, "in between"), (other, first.as_str()), (one, second.as_str())] {
            if one != other {
                to.prepare_cached("UPDATE customers SET email = ?2 WHERE id = ?1")?
                    .execute(params![id, email])?;
                self.tally.updated += 1;
            }
        }
        Ok(())
    }

    fn exchange_order_ids(&mut self, to: &Transaction<'_>) -> rusqlite::Result<()> {
        let one = self.some_id(to, "orders", self.size.orders)?;
        let other = self.some_id(to, "orders", self.size.orders)?;
        let (Some(one), Some(other)) = (one, other) else { return Ok(()) };
        if one == other {
            return Ok(());
        }
        for (from, new) in [(one, -1), (other, one), (-1, other)] {
            to.prepare_cached("UPDATE orders SET id = ?2 WHERE id = ?1")?.execute([from, new])?;
            self.tally.keys_moved += 1;
        }
        Ok(())
    }

    /// A new customer under an email that another one has: SQLite deletes that one, and no delete trigger fires.
    fn replace_customer(&mut self, to: &Transaction<'_>) -> rusqlite::Result<()> {
        let Some(pushed_out) = self.some_id(to, "customers", self.size.customers)? else { return Ok(()) };
        let id = self.new_id();
        to.prepare_cached(
            "INSERT OR REPLACE INTO customers SELECT ?2, email, ?3, country, credit + 1, joined_at, preferences \
             FROM customers WHERE id = ?1",
        )?
        .execute(params![pushed_out, id, values::person(&mut self.random)])?;
        self.tally.inserted += 1;
        self.tally.deleted += 1;
        Ok(())
    }

    fn change_everything(&mut self, to: &Transaction<'_>) -> rusqlite::Result<()> {
        if self.random.once_in(3) {
            let id = self.new_id();
            let row = shop::everything_row(id, &mut self.random);
            to.prepare_cached(shop::INSERT_EVERYTHING)?.execute(params_from_iter(row))?;
            self.tally.inserted += 1;
        }
        let Some(id) = self.some_id(to, "everything", self.size.everything)? else { return Ok(()) };
        match self.random.below(4) {
            0 => {
                let gone = to.prepare_cached("DELETE FROM everything WHERE id = ?1")?.execute([id])?;
                self.tally.deleted += gone as u64;
            }
            1 => {
                let row = shop::everything_row(id, &mut self.random);
                to.prepare_cached("REPLACE INTO everything VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
                    .execute(params_from_iter(row))?;
                self.tally.updated += 1;
            }
            _ => {
                let changed = to
                    .prepare_cached("UPDATE everything SET anything = ?2, whole = ?3 WHERE id = ?1")?
                    .execute(params![
                        id,
                        values::anything(&mut self.random),
                        values::whole(&mut self.random)
                    ])?;
                self.tally.updated += changed as u64;
            }
        }
        Ok(())
    }

    /// Counts a visit where there is one at that second, else notes a new one.
    fn visit(&mut self, to: &Transaction<'_>) -> rusqlite::Result<()> {
        let at = shop::VISITS_BEGIN + self.random.whole(self.size.visits / shop::PAGES + 100);
        let page = shop::page(self.random.whole(shop::PAGES));
        let customer = self.some_id(to, "customers", self.size.customers)?;
        to.prepare_cached(
            "INSERT INTO visits VALUES (?1, ?2, ?3, 1) ON CONFLICT DO UPDATE SET times = times + 1",
        )?
        .execute(params![at, page, customer])?;
        self.tally.updated += 1;
        if self.random.once_in(3) {
            let gone = to
                .prepare_cached(
                    "DELETE FROM visits WHERE (visited_at, page) = \
                     (SELECT visited_at, page FROM visits WHERE visited_at >= ?1 ORDER BY 1, 2 LIMIT 1)",
                )?
                .execute([at])?;
            self.tally.deleted += gone as u64;
        }
        if self.random.once_in(4) {
            let moved = to
                .prepare_cached("UPDATE visits SET page = page || '?' WHERE visited_at = ?1")?
                .execute([at])?;
            self.tally.keys_moved += moved as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_at_the_shop_breaks_no_rule_of_the_shop() {
        let dir = tempfile::tempdir().unwrap();
        let (path, go) = (dir.path().join("shop.db"), AtomicBool::new(false));
        let size = Size::of(2000);
        shop::build(&path, size, 1, &go).unwrap();
        let tally = work(&path, size, 2, Duration::from_millis(700), &go).unwrap();
        assert!(
            tally.inserted > 0 && tally.updated > 0 && tally.deleted > 0 && tally.keys_moved > 0,
            "{tally:?}"
        );
        let connection = Connection::open(&path).unwrap();
        let violations: i64 = connection
            .query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(violations, 0);
    }
}
