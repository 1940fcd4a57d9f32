//! Both ends over a pipe in memory: they agree, and neither believes what it cannot check.

mod ends;
mod hostile_agent;
mod hostile_asker;
mod pushing;

use std::sync::Arc;

use async_trait::async_trait;
use syncline_core::{Column, Error, Family, Result, Selection, Source};
use syncline_testkit::memory::{Database, MemorySource, TableDefinition, text};

use super::frame::Link;
use super::*;

const TOKEN: &str = "the token";

/// A table of some rows, and one without a key.
fn database(rows: u64, change: impl Fn(u64) -> Option<u64>) -> Database {
    let database = Database::new();
    let table = database.create_table(TableDefinition::new("s", "t", &["id", "v"]).key(&["id"]));
    let bag = database.create_table(TableDefinition::new("s", "bag", &["v"]));
    let fill = database.transaction(|transaction| {
        for n in 0..rows {
            if let Some(value) = change(n) {
                transaction.insert(&table, vec![text(&key(n)), text(&format!("v{value}"))])?;
                transaction.insert(&bag, vec![text(&format!("v{}", value % 10))])?;
            }
        }
        Ok(())
    });
    fill.expect("rows");
    database
}

/// Some keys are longer than a sketch carries.
fn key(n: u64) -> String {
    if n.is_multiple_of(7) { format!("{n:050}") } else { format!("{n:06}") }
}

fn shown(_: &Column, value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

struct Doors(Database);

impl Door for Doors {
    fn open(&self, token: &str, connection: &str) -> Result<Arc<dyn Source>> {
        if token != TOKEN || connection != "db" {
            return Err(Error::configuration("not let in"));
        }
        Ok(Arc::new(MemorySource::new(&self.0).with_rows_per_chunk(50)))
    }
}

/// A way to an end of one's own making.
struct Pipe<F>(F);

#[async_trait]
impl<F: Fn(tokio::io::DuplexStream) + Send + Sync> Dial for Pipe<F> {
    async fn dial(&self) -> Result<Box<dyn Wire>> {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        (self.0)(theirs);
        Ok(Box::new(ours))
    }

    fn address(&self) -> String {
        "syncline://test/db".to_owned()
    }

    fn connection(&self) -> &str {
        "db"
    }

    fn token(&self) -> &str {
        TOKEN
    }

    fn family(&self, name: &str) -> Option<(Family, Show)> {
        let source = MemorySource::new(&Database::new());
        (name == source.family().0).then_some((source.family(), shown))
    }
}

/// An agent that reads this database.
async fn agent_of(database: &Database) -> Arc<Agent> {
    let database = database.clone();
    let serve = move |theirs| {
        let doors = Doors(database.clone());
        // Ends with its pipe.
        tokio::spawn(async move { serve(Box::new(theirs), &doors, 2).await });
    };
    Agent::connect(Arc::new(Pipe(serve))).await.expect("an agent")
}

fn everything() -> Selection {
    Selection::all(syncline_core::Carry::Typed)
}
