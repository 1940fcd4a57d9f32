//! A table sync's requests over a pipe: the far side keeps its contract, and whoever asks for more than that is refused.

use std::sync::Mutex;

use arrow_array::RecordBatch;
use serde_json::{Value, json};
use syncline_core::{
    Carry, Destination, ErrorKind, ManifestBounds, PipelineName, Replica, ReplicaState, SchemaMap, TableId,
    TableSchema, Version, VersionRange,
};
use syncline_testkit::memory::MemoryDestination;

use super::*;
use crate::diff::pair_tables;
use crate::table_sync::Holding;

/// An agent that writes, and the tasks of its sessions.
struct Writes {
    destination: MemoryDestination,
    holds: Arc<Holds>,
}

impl Door for Writes {
    fn open(&self, token: &str, _connection: &str) -> Result<Arc<dyn Source>> {
        if token == TOKEN { Ok(Arc::new(self.destination.reader())) } else { Err(Error::bug("no token")) }
    }

    fn writable(&self, _connection: &str) -> Result<Option<Writable>> {
        let destination = Arc::new(self.destination.clone()) as Arc<dyn Destination>;
        Ok(Some(Writable { destination, holds: Arc::clone(&self.holds) }))
    }
}

struct World {
    source: Database,
    destination: MemoryDestination,
    sessions: Arc<Mutex<Vec<tokio::task::JoinHandle<Result<()>>>>>,
    agent: Arc<Agent>,
}

fn holding() -> Holding {
    let pipeline = PipelineName::new("far").unwrap();
    Holding { pipeline, schema_map: SchemaMap::default(), run: 1 }
}

impl World {
    async fn new(rows: u64) -> Self {
        let source = database(rows, Some);
        let destination = MemoryDestination::new();
        let (sessions, holds) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Holds::default()));
        let (kept, there) = (Arc::clone(&sessions), destination.clone());
        let serve = move |theirs| {
            let door = Writes { destination: there.clone(), holds: Arc::clone(&holds) };
            let task = tokio::spawn(async move { serve(Box::new(theirs), &door, 1).await });
            kept.lock().unwrap().push(task);
        };
        let agent = Agent::connect(Arc::new(Pipe(serve))).await.unwrap();
        Self { source, destination, sessions, agent }
    }

    /// Cuts every connection.
    async fn cut(&self) {
        let tasks: Vec<_> = self.sessions.lock().unwrap().drain(..).collect();
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
    }

    async fn table(&self) -> Arc<TableSchema> {
        let selection = Selection::all(Carry::Native);
        let tables = MemorySource::new(&self.source).discover(&selection).await.unwrap();
        Arc::new(tables.into_iter().find(|table| table.id.name == "t").unwrap())
    }

    /// The far side, with its version in place of the value: a number after a `v`.
    async fn replica(&self) -> (Arc<Push>, push::AgentReplica, RecordBatch) {
        let table = self.table().await;
        let push =
            Push::open(Arc::clone(&self.agent), holding(), std::slice::from_ref(&table)).await.unwrap();
        if !push.knows(&table.id).await {
            push.bring_in(&table, None).await.unwrap();
        }
        let near = Arc::new(MemorySource::new(&self.source)) as Arc<dyn Source>;
        let far = Arc::clone(&self.agent) as Arc<dyn Source>;
        let mut selection = everything();
        selection.exclude = vec![syncline_core::TablePattern::new("s.bag").unwrap()];
        let pairing = pair_tables(&near, &far, &selection, &SchemaMap::default()).await.unwrap().remove(0);
        let version = pairing.left.columns.iter().position(|column| column.name == "id").unwrap();
        let keys = key_batch(&pairing.left);
        let rows = near.snapshots().unwrap().read_keys(&pairing.left, &keys).await.unwrap().0;
        (Arc::clone(&push), push.replica(&pairing, version).unwrap(), rows)
    }
}

/// The keys of the first forty rows whose key is a number.
fn key_batch(table: &TableSchema) -> RecordBatch {
    let keys: arrow_array::BinaryArray = (1..40).map(|n| Some(key(n).into_bytes())).collect();
    RecordBatch::try_new(table.arrow_old(), vec![Arc::new(keys)]).unwrap()
}

const BOUNDS: ManifestBounds = ManifestBounds { rows_max: 7, bytes_max: 1 << 20 };

#[tokio::test]
async fn a_far_side_keeps_the_contract_also_when_its_connection_breaks() {
    let world = World::new(40).await;
    let (push, far, rows) = world.replica().await;
    let state = |versions: std::ops::Range<i64>| {
        let mut state = ReplicaState::default();
        versions.for_each(|n| state.add(Version(n)));
        state
    };
    assert_eq!(far.state(&VersionRange::ALL).await.unwrap(), ReplicaState::default());
    far.upsert(&rows).await.unwrap();
    // The same again, over another connection: it changes nothing.
    world.cut().await;
    far.upsert(&rows).await.unwrap();
    assert_eq!(far.state(&VersionRange::ALL).await.unwrap(), state(1..40));
    let some = VersionRange { from: Version(10), to: Version(19) };
    assert_eq!(far.state(&some).await.unwrap(), state(10..20));
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = far.manifest(&VersionRange::ALL, after.as_ref(), BOUNDS).await.unwrap();
        assert!(page.rows.len() <= BOUNDS.rows_max);
        found.extend(page.rows);
        world.cut().await;
        let Some(next) = page.next else { break };
        after = Some(next);
    }
    assert_eq!(found.iter().map(|(_, version)| version.0).collect::<Vec<_>>(), (1..40).collect::<Vec<_>>());
    let gone: Vec<_> =
        found.iter().filter(|(_, version)| version.0 > 30).map(|(key, _)| key.clone()).collect();
    far.delete(&gone).await.unwrap();
    world.cut().await;
    far.delete(&gone).await.unwrap();
    assert_eq!(far.state(&VersionRange::ALL).await.unwrap(), state(1..31));
    push.close().await;
    // What it leaves is held by nobody, and dropped through the agent.
    let (push, far, _) = world.replica().await;
    assert_eq!(far.state(&VersionRange::ALL).await.unwrap(), state(1..31));
    push.close().await;
    assert_eq!(world.destination.rows(&TableId::new("s", "t")).unwrap().len(), 30);
}

#[tokio::test]
async fn whoever_asks_for_what_is_not_offered_is_refused_and_the_session_goes_on() {
    let world = World::new(3).await;
    let table = world.table().await;
    let raw = |ask: Value, body: Vec<u8>| {
        let agent = Arc::clone(&world.agent);
        async move {
            let ask = serde_json::from_value(json!({ "push": ask })).expect("a question");
            let question = agent::Question::new(ask, &body, traffic::Purpose::Rest, 1 << 20);
            agent.ask::<Value>(question, None).await.map(|(head, body, _)| (head, body))
        }
    };
    let described = |change: &dyn Fn(&mut Value)| {
        let mut table = serde_json::to_value(table.as_ref()).unwrap();
        change(&mut table);
        table
    };
    let honest = described(&|_| ()).to_string().into_bytes();
    // Nothing is held yet.
    for (ask, body) in [
        (json!({ "bring_in": { "prepare": null } }), honest.clone()),
        (json!({ "state": { "table": 1, "range": { "from": 0, "to": 1 } } }), vec![]),
        (json!({ "upsert": { "table": 0 } }), vec![1, 2, 3]),
        (json!({ "delete": { "table": 0 } }), vec![0xff; 4]),
        (json!({ "check": { "schema_map": [] } }), b"[{}]".to_vec()),
        (json!({ "hold": { "holding": holding(), "by": "x" } }), b"no".to_vec()),
    ] {
        assert!(raw(ask.clone(), body).await.is_err(), "{ask}");
    }
    let hold = json!({ "hold": { "holding": holding(), "by": "x" } });
    raw(hold, format!("[{}]", described(&|_| ())).into_bytes()).await.unwrap();
    // Text that is no type, and a key that is no column.
    for table in [
        described(&|table| table["columns"][1]["native_type"] = json!("text); DROP TABLE x; --")),
        described(&|table| table["columns"][1]["native_type"] = json!("text DEFAULT now()")),
        described(&|table| table["row_key"] = json!([9])),
    ] {
        let refused = raw(json!({ "bring_in": { "prepare": null } }), table.to_string().into_bytes()).await;
        let error = refused.unwrap_err();
        assert!(!error.to_string().contains("DROP"), "{error}");
    }
    raw(json!({ "bring_in": { "prepare": null } }), honest.clone()).await.unwrap();
    let open = |version: usize| json!({ "open": { "version": version } });
    let both = |name: &str, left: &[u8]| {
        let right = json!({
            "table": { "schema": "s", "name": name }, "columns": table.columns, "classes": ["native", "native"],
            "key_columns": 1 });
        list::List::of([right.to_string().as_bytes(), left]).unwrap()
    };
    let other = described(&|table| table["id"]["name"] = json!("other")).to_string().into_bytes();
    for (ask, body) in [
        (open(2), both("t", &honest)),
        (open(0), both("no", &honest)),
        (open(0), both("t", &other)),
        (open(0), both("t", &[])),
        (open(0), list::List::of([honest.as_slice()]).unwrap()),
        (open(0), vec![]),
    ] {
        assert!(raw(ask.clone(), body).await.is_err(), "{ask}");
    }
    let number = raw(open(0), both("t", &honest)).await.unwrap().0.as_u64().unwrap();
    for (ask, body) in [
        (json!({ "upsert": { "table": number } }), vec![7; 100]),
        (json!({ "upsert": { "table": number + 1 } }), vec![]),
        (json!({ "delete": { "table": number } }), vec![4, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]),
        (
            json!({ "manifest": { "table": number, "range": { "from": 0, "to": 9 }, "rows_max": 5, "bytes_max": 5 } }),
            vec![1],
        ),
    ] {
        assert!(raw(ask.clone(), body).await.is_err(), "{ask}");
    }
    let all = json!({ "state": { "table": number, "range": { "from": 0, "to": 9 } } });
    assert_eq!(raw(all, vec![]).await.unwrap().0["rows"], 0);
}

#[tokio::test]
async fn an_agent_without_consent_writes_nothing() {
    let agent = agent_of(&database(3, Some)).await;
    let world = World::new(3).await;
    let refused = Push::open(agent, holding(), &[world.table().await]).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Configuration);
    assert!(refused.remedy().unwrap().contains("--writable"), "{refused:?}");
}

#[tokio::test]
async fn a_table_of_a_thousand_columns_is_pushed() {
    let names: Vec<String> =
        std::iter::once("id".to_owned()).chain((1..1000).map(|n| format!("v{n}"))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let source = Database::new();
    let table = source.create_table(TableDefinition::new("s", "t", &names).key(&["id"]));
    let row = |n: u64| (0..names.len()).map(|_| text(&key(n))).collect();
    source.transaction(|transaction| (1..4).try_for_each(|n| transaction.insert(&table, row(n)))).unwrap();
    let world = World { source, ..World::new(0).await };
    let (push, far, rows) = world.replica().await;
    far.upsert(&rows).await.unwrap();
    assert_eq!(far.state(&VersionRange::ALL).await.unwrap().rows, 3);
    push.close().await;
}
