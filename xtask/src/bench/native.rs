//! The peer: PostgreSQL's own logical replication.

use std::thread;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::measure::Cost;
use super::pair::{Pair, SOURCE};
use crate::Outcome;

/// Its database at the destination.
pub(super) const DATABASE: &str = "native";
const NAME: &str = "native";
const POLL: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(600);

/// A subscription to one table, and a session that looks at it without starting a process each time.
pub(super) struct Subscription {
    destination: Client,
}

impl Subscription {
    /// Creates the table, subscribes, and waits until its rows are copied.
    pub(super) fn create(pair: &Pair, definition: &str, table: &str) -> Outcome<Self> {
        pair.destination.psql("postgres", &format!("CREATE DATABASE {DATABASE}"));
        pair.destination.psql(DATABASE, definition);
        pair.source.psql(SOURCE, &format!("CREATE PUBLICATION {NAME} FOR TABLE {table}"));
        let conninfo = format!("host=127.0.0.1 port={} user=postgres dbname={SOURCE}", pair.source.port());
        let created = format!(
            "CREATE SUBSCRIPTION {NAME} CONNECTION '{conninfo}' PUBLICATION {NAME} WITH (binary, streaming = off)"
        );
        pair.destination.psql(DATABASE, &created);
        let subscription = Self { destination: pair.runtime.block_on(pair.destination.client(DATABASE)) };
        subscription
            .wait_until(pair, "SELECT bool_and(srsubstate IN ('r', 's')) FROM pg_subscription_rel")?;
        Ok(subscription)
    }

    /// Lets it run.
    pub(super) fn enable(&self, pair: &Pair) {
        pair.destination.psql(DATABASE, &format!("ALTER SUBSCRIPTION {NAME} ENABLE"));
    }

    /// Stops it, and waits until its slot is free.
    pub(super) fn disable(&self, pair: &Pair) -> Outcome {
        pair.destination.psql(DATABASE, &format!("ALTER SUBSCRIPTION {NAME} DISABLE"));
        let active = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{NAME}'");
        let begun = Instant::now();
        while pair.source.psql(SOURCE, &active) != "f" {
            if begun.elapsed() > LONGEST {
                return Err("the subscription does not stop".to_owned());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Runs until `holds`, a query at the destination, says so; from a standing subscription to a standing one.
    pub(super) fn drain(&self, pair: &Pair, holds: &str) -> Outcome<Cost> {
        let begun = Instant::now();
        self.enable(pair);
        self.wait_until(pair, holds)?;
        let seconds = begun.elapsed().as_secs_f64();
        self.disable(pair)?;
        Ok(Cost { seconds, ..Cost::default() })
    }

    fn wait_until(&self, pair: &Pair, holds: &str) -> Outcome {
        let begun = Instant::now();
        loop {
            let row = pair.runtime.block_on(self.destination.query_one(holds, &[]));
            let row = row.map_err(|error| format!("cannot look at the destination: {error}"))?;
            if row.get::<_, Option<bool>>(0) == Some(true) {
                return Ok(());
            }
            if begun.elapsed() > LONGEST {
                return Err(format!("`{holds}` did not become true in {LONGEST:?}"));
            }
            thread::sleep(POLL);
        }
    }
}
