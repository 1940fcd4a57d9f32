//! A writer that does to one table all that breaks change capture: keys move and are used again while their 5 kB of
//! TOAST stay as they are, unique values change hands, rows die and come back, the table is rewritten under the reader.

use tokio_postgres::Client;

use super::random::Random;
use super::writer::Writer;
use crate::postgres::Postgres;

/// `item` has a key, a secondary unique value and a TOASTed body; `loose` has no key; `scratch` is emptied by TRUNCATE.
const TABLES: &str = "CREATE SCHEMA chaos;
    CREATE TABLE chaos.item (id int PRIMARY KEY, code text, body text NOT NULL, number numeric, touched int NOT NULL DEFAULT 0);
    ALTER TABLE chaos.item ALTER body SET STORAGE EXTERNAL;
    CREATE UNIQUE INDEX item_code ON chaos.item (code);
    CREATE TABLE chaos.scratch (id int PRIMARY KEY, item int NOT NULL);
    CREATE TABLE chaos.loose (item int, note text);
    ALTER TABLE chaos.loose REPLICA IDENTITY FULL;";

/// 5 kB that compression leaves as they are, from a number.
macro_rules! body {
    ($number:literal) => {
        concat!("(SELECT string_agg(md5(", $number, "::text || g), '') FROM generate_series(1, 160) g)")
    };
}

/// How many steps lie between two rewrites of the table, on average.
const STEPS_PER_REWRITE: u32 = 400;
const STEPS_PER_TRUNCATE: u32 = 300;

/// The tables and how hard they are written to.
#[derive(Debug, Clone)]
pub struct Chaos {
    seed: u64,
    rows: u32,
    keyless: Keyless,
    rewrites: Rewrites,
}

/// Whether the table is rewritten under its readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewrites {
    /// By VACUUM FULL and CLUSTER, now and then.
    NowAndThen,
    /// Never.
    Never,
}

/// Whether a table without any key is written to as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keyless {
    /// It is.
    Written,
    /// It is left empty.
    LeftAlone,
}

impl Chaos {
    /// A writer of 2,000 rows, from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, rows: 2_000, keyless: Keyless::Written, rewrites: Rewrites::NowAndThen }
    }

    /// How many rows the table has at first. Keys are taken from twice as many numbers.
    #[must_use]
    pub fn rows(mut self, rows: u32) -> Self {
        self.rows = rows;
        self
    }

    /// Whether `chaos.loose`, which has no key, is written to.
    #[must_use]
    pub fn keyless(mut self, keyless: Keyless) -> Self {
        self.keyless = keyless;
        self
    }

    /// Whether VACUUM FULL and CLUSTER are among what it does.
    #[must_use]
    pub fn rewrites(mut self, rewrites: Rewrites) -> Self {
        self.rewrites = rewrites;
        self
    }

    /// Creates the tables in schema `chaos` and fills them.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn create(&self, server: &Postgres, database: &str) {
        server.execute(database, TABLES).await;
        let fill = concat!(
            "INSERT INTO chaos.item SELECT i * 2, 'code-' || i, ",
            body!("i"),
            ", i / 7.0 FROM generate_series(1, $rows) i"
        );
        server.execute(database, &fill.replace("$rows", &self.rows.to_string())).await;
        if self.keyless == Keyless::Written {
            let fill =
                "INSERT INTO chaos.loose SELECT i % 10, 'note ' || i % 3 FROM generate_series(1, 100) i";
            server.execute(database, fill).await;
        }
    }

    /// Starts writing. Several writers with different seeds may write to the same tables.
    #[must_use]
    pub fn start(&self, server: &Postgres, database: &str) -> Writer {
        let mut random = Random::new(self.seed);
        let asked = self.clone();
        Writer::start("chaos", server.url(database), async move |client: &Client| {
            client.batch_execute(&asked.transaction(&mut random)).await
        })
    }

    /// One transaction, or one command that must stand alone. `$a`, `$b`, `$c` become keys, there or not; `$n` a number.
    fn transaction(&self, random: &mut Random) -> String {
        if random.below(STEPS_PER_REWRITE) == 0 && self.rewrites == Rewrites::NowAndThen {
            let rewrites =
                ["VACUUM FULL chaos.item", "CLUSTER chaos.item USING item_pkey", "VACUUM chaos.item"];
            return pick(random, &rewrites).to_owned();
        }
        if random.below(STEPS_PER_TRUNCATE) == 0 {
            return "TRUNCATE chaos.scratch".to_owned();
        }
        let of_keyless = self.keyless == Keyless::Written && random.below(8) == 0;
        let mut sql = pick(random, if of_keyless { LOOSE_STEPS } else { STEPS }).to_owned();
        for name in ["$a", "$b", "$c"] {
            sql = sql.replace(name, &random.below(self.rows * 2).to_string());
        }
        sql = sql.replace("$n", &random.below(u32::MAX).to_string());
        let end = if random.below(20) == 0 { "ROLLBACK" } else { "COMMIT" };
        format!("BEGIN; {sql}; {end}")
    }
}

fn pick<'a>(random: &mut Random, from: &[&'a str]) -> &'a str {
    let index = random.below(u32::try_from(from.len()).expect("a short list"));
    from[index as usize]
}

const STEPS: &[&str] = &[
    // A key moves to a free one; its TOAST is not in the log.
    "UPDATE chaos.item SET id = $b WHERE id = $a AND NOT EXISTS (SELECT FROM chaos.item WHERE id = $b)",
    "UPDATE chaos.item SET id = $b, touched = touched + 1 WHERE id = $a AND NOT EXISTS (SELECT FROM chaos.item WHERE id = $b)",
    // A key that was just freed is used again, by a moved row and by a new one.
    "DELETE FROM chaos.item WHERE id = $b; UPDATE chaos.item SET id = $b WHERE id = $a",
    "UPDATE chaos.item SET id = -1 - $a WHERE id = $a; UPDATE chaos.item SET id = $a WHERE id = $b;
     UPDATE chaos.item SET id = $b WHERE id = -1 - $a",
    concat!("UPDATE chaos.item SET id = $b WHERE id = $a AND NOT EXISTS (SELECT FROM chaos.item WHERE id = $b);
     INSERT INTO chaos.item VALUES ($a, NULL, ", body!("$n"), ", $n) ON CONFLICT DO NOTHING"),
    // A chain of moves.
    "DELETE FROM chaos.item WHERE id = $c; UPDATE chaos.item SET id = $c WHERE id = $b; UPDATE chaos.item SET id = $b WHERE id = $a",
    // Columns beside the TOAST, the TOAST itself, both one after the other.
    "UPDATE chaos.item SET number = $n / 3.0, touched = touched + 1 WHERE id = $a",
    "UPDATE chaos.item SET touched = touched + 1 WHERE id BETWEEN $a AND $a + 40",
    concat!("UPDATE chaos.item SET body = ", body!("$n"), " WHERE id = $a"),
    concat!("UPDATE chaos.item SET body = ", body!("$n"), " WHERE id = $a; UPDATE chaos.item SET touched = touched + 1 WHERE id = $a;
     UPDATE chaos.item SET id = $b WHERE id = $a AND NOT EXISTS (SELECT FROM chaos.item WHERE id = $b)"),
    // A unique value is exchanged, handed to a lower key, taken over from a deleted row.
    "CREATE TEMP TABLE old ON COMMIT DROP AS SELECT id, code FROM chaos.item WHERE id IN ($a, $b);
     UPDATE chaos.item SET code = NULL WHERE id IN ($a, $b);
     UPDATE chaos.item SET code = (SELECT code FROM old WHERE id = $b) WHERE id = $a AND EXISTS (SELECT FROM old WHERE id = $b);
     UPDATE chaos.item SET code = (SELECT code FROM old WHERE id = $a) WHERE id = $b AND EXISTS (SELECT FROM old WHERE id = $a)",
    "WITH higher AS (SELECT id, code FROM chaos.item WHERE id > $a AND code IS NOT NULL ORDER BY id LIMIT 1),
     cleared AS (UPDATE chaos.item i SET code = NULL FROM higher h WHERE i.id = h.id RETURNING h.code)
     SELECT set_config('chaos.code', coalesce((SELECT code FROM cleared), ''), true);
     UPDATE chaos.item SET code = nullif(current_setting('chaos.code'), '')
     WHERE id = (SELECT max(id) FROM chaos.item WHERE id < $a) AND current_setting('chaos.code') <> ''",
    concat!("WITH gone AS (DELETE FROM chaos.item WHERE id = $a RETURNING code)
     SELECT set_config('chaos.code', coalesce((SELECT code FROM gone), ''), true);
     INSERT INTO chaos.item VALUES ($b, nullif(current_setting('chaos.code'), ''), ", body!("$n"), ", $n) ON CONFLICT DO NOTHING"),
    // A row dies and comes back: the same, another, in the same transaction.
    concat!("DELETE FROM chaos.item WHERE id = $a; INSERT INTO chaos.item VALUES ($a, 'again-$n', ", body!("$n"), ", 1.00)"),
    concat!("INSERT INTO chaos.item VALUES ($a, 'new-$n', ", body!("$n"), ", 'NaN') ON CONFLICT DO NOTHING"),
    "DELETE FROM chaos.item WHERE id = $a",
    "DELETE FROM chaos.item WHERE id BETWEEN $a AND $a + 3",
    // Changes that a savepoint takes back.
    "SAVEPOINT s; DELETE FROM chaos.item WHERE id BETWEEN $a AND $a + 20; ROLLBACK TO s; UPDATE chaos.item SET touched = -1 WHERE id = $a",
    "INSERT INTO chaos.scratch VALUES ($a, $b) ON CONFLICT (id) DO UPDATE SET item = excluded.item",
    "INSERT INTO chaos.scratch VALUES ($a, $b) ON CONFLICT DO NOTHING; DELETE FROM chaos.scratch WHERE id = $c",
];

const LOOSE_STEPS: &[&str] = &[
    "INSERT INTO chaos.loose VALUES ($a % 10, 'note ' || $b % 3), ($a % 10, 'note ' || $b % 3)",
    "DELETE FROM chaos.loose WHERE ctid = (SELECT min(ctid) FROM chaos.loose WHERE item = $a % 10)",
    "UPDATE chaos.loose SET note = 'note ' || $b % 3 WHERE ctid = (SELECT min(ctid) FROM chaos.loose WHERE item = $a % 10)",
    "UPDATE chaos.loose SET item = NULL WHERE ctid = (SELECT max(ctid) FROM chaos.loose)",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_asks_for_the_same_statements() {
        let statements = |seed| {
            let (chaos, mut random) = (Chaos::new(seed).rows(50), Random::new(seed));
            (0..500).map(|_| chaos.transaction(&mut random)).collect::<Vec<_>>()
        };
        assert_eq!(statements(1), statements(1));
        assert_ne!(statements(1), statements(2));
        assert!(statements(1).iter().all(|sql| !sql.contains('$')));
    }
}
