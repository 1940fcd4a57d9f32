//! Tables made, taken, refused and finished.

use serde_json::json;
use syncline_connectors::registry;
use syncline_core::{ErrorKind, FinishStep, Prepare, Prepared, SchemaMap, Severity};

use super::world::{World, defined, insert, server, table, update};

const STEPS: [FinishStep; 3] = [FinishStep::Key, FinishStep::Indexes, FinishStep::ForeignKeys];

#[tokio::test]
async fn hostile_names_everywhere() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let long = "Ü".repeat(31) + "x";
    for name in ["a\"b", "Mixed Case", "x'; DROP TABLE t; --", "select", "dot.ted", long.as_str(), "\\"] {
        let t = table((name, name), &[(name, "integer"), ("\"", "text")], 1);
        let index = json!({"name": "i\"x", "excludes": true, "columns": ["\""], "identity": false,
            "ddl": {"Index": {"unique": true, "using": "btree (\"\"\"\")"}}});
        let primary = json!({"name": "p\"k", "columns": [name]});
        let t = defined(&t, &json!({"indexes": [index], "primary_key": primary}));
        held.ready(&t).await;
        for step in STEPS {
            held.session.finish(&t, step).await.unwrap();
        }
        held.load(&t, &[vec![insert(&["1", "a"]), insert(&["2", "b"])]]).await.unwrap();
        held.load(&t, &[vec![update(&["1", "b"]), update(&["2", "a"])]]).await.unwrap();
        let quoted = format!("\"{0}\".\"{0}\"", name.replace('"', "\"\""));
        assert_eq!(world.rows(&format!("SELECT * FROM {quoted} ORDER BY 1")).await, ["(1,b)", "(2,a)"]);
    }
    assert_eq!(held.session.checkpoint().await.unwrap().tables.len(), 7);
}

#[tokio::test]
async fn trap_21_a_name_that_would_be_cut_is_refused() {
    let Some(world) = World::new().await else { return };
    let held = world.held("p").await;
    let long = "x".repeat(64);
    for t in
        [table(("public", &long), &[("id", "integer")], 1), table(("public", "t"), &[(&long, "integer")], 1)]
    {
        let error = held.session.prepare(&t, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let destination = registry::destination(&world.url).unwrap();
        let findings = destination.check(&[t], &SchemaMap::default()).await.unwrap();
        assert_eq!(findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["name_length"]);
    }
}

#[tokio::test]
async fn the_modes_of_preparation() {
    let Some(world) = World::new().await else { return };
    let held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("v", "text")], 1);
    let rows = "TRUNCATE t; INSERT INTO t (id, v) VALUES (1, 'mine')";
    world.sql("CREATE TABLE t (id int4, v text, extra text); INSERT INTO t VALUES (1, 'mine')").await;

    let error = held.session.prepare(&t, None).await.unwrap_err();
    assert_eq!((error.kind(), error.kind().exit_code()), (ErrorKind::Configuration, 2));
    for mode in ["recreate", "truncate", "keep"] {
        assert!(error.remedy().unwrap().contains(&format!("--prepare {mode}")));
    }
    assert_eq!(world.rows("SELECT v FROM t").await, ["(mine)"]);
    assert_eq!(held.prepare(&t, Some(Prepare::Keep)).await, Prepared::HasRows);
    assert_eq!(world.rows("SELECT v FROM t").await, ["(mine)"]);
    world.sql(rows).await;
    assert_eq!(held.prepare(&t, Some(Prepare::Truncate)).await, Prepared::Empty);
    assert_eq!(world.rows("SELECT count(*), count(extra) FROM t").await, ["(0,0)"]);
    assert_eq!(held.prepare(&t, None).await, Prepared::Empty, "an empty table needs no mode");
    world.sql(rows).await;
    world.sql("CREATE TABLE child (id int4 REFERENCES t (id)); INSERT INTO child VALUES (1)").await;
    assert_eq!(held.prepare(&t, Some(Prepare::Recreate)).await, Prepared::Empty);
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 't'";
    assert_eq!(world.rows(columns).await, ["(2)"], "it is the source's table now");
    // The other table's foreign key comes back when its rows allow it, and says so when they do not.
    held.session.finish(&t, FinishStep::Key).await.unwrap();
    let error = held.session.finish(&t, FinishStep::ForeignKeys).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Data, Some("23503")));
    world.sql("INSERT INTO t VALUES (1, 'new')").await;
    held.session.finish(&t, FinishStep::ForeignKeys).await.unwrap();
    held.session.finish(&t, FinishStep::ForeignKeys).await.unwrap();
    let keys = "SELECT conname FROM pg_constraint WHERE contype = 'f'";
    assert_eq!(world.rows(keys).await, ["(child_id_fkey)"]);
}

#[tokio::test]
async fn columns_that_do_not_fit_are_all_named() {
    let Some(world) = World::new().await else { return };
    world.sql("CREATE TABLE t (id int8, v varchar(5), w text NOT NULL, x int4 NOT NULL); CREATE VIEW w AS SELECT 1 AS id").await;
    let held = world.held("p").await;
    let t = table(
        ("public", "t"),
        &[("id", "integer"), ("v", "character varying(9)"), ("w", "text"), ("gone", "text")],
        1,
    );
    for mode in [None, Some(Prepare::Truncate), Some(Prepare::Keep)] {
        let error = held.session.prepare(&t, mode).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        for column in ["`id`", "`v`", "`w`", "`gone`", "`x`"] {
            assert!(error.to_string().contains(column), "{column} in {error}");
        }
    }
    let view = table(("public", "w"), &[("id", "integer")], 1);
    for mode in [None, Some(Prepare::Truncate), Some(Prepare::Keep), Some(Prepare::Recreate)] {
        assert_eq!(held.session.prepare(&view, mode).await.unwrap_err().kind(), ErrorKind::Configuration);
    }
}

#[tokio::test]
async fn a_dependent_view_stops_recreate_and_nothing_is_changed() {
    let Some(world) = World::new().await else { return };
    world.sql("CREATE TABLE t (id int4 PRIMARY KEY); INSERT INTO t VALUES (1); CREATE VIEW v AS SELECT id FROM t").await;
    let held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer")], 1);
    let error = held.session.prepare(&t, Some(Prepare::Recreate)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert_eq!(world.rows("SELECT * FROM v").await, ["(1)"]);
}

#[tokio::test]
async fn unique_indexes_are_set_aside_for_the_window() {
    let Some(world) = World::new().await else { return };
    world
        .sql(
            "CREATE EXTENSION btree_gist; \
             CREATE TABLE t (id int4 PRIMARY KEY, u text UNIQUE, v int4 UNIQUE DEFERRABLE, w int4, \
                EXCLUDE USING gist (w WITH =) WHERE (w > 0)); \
             CREATE UNIQUE INDEX part ON t (lower(u)) WHERE v > 0; CREATE UNIQUE INDEX wider ON t (id, v); \
             CREATE INDEX plain ON t (v); CREATE TABLE child (u text REFERENCES t (u))",
        )
        .await;
    let definitions =
        "SELECT pg_get_indexdef(indexrelid) AS d FROM pg_index WHERE indrelid = 't'::regclass ORDER BY d";
    let constraints = "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint \
        WHERE conrelid IN ('t'::regclass, 'child'::regclass) ORDER BY 1";
    let before = (world.rows(definitions).await, world.rows(constraints).await);
    for mode in [None, Some(Prepare::Truncate), Some(Prepare::Keep)] {
        let held = world.held("p").await;
        let t = table(
            ("public", "t"),
            &[("id", "integer"), ("u", "text"), ("v", "integer"), ("w", "integer")],
            1,
        );
        held.prepare(&t, mode).await;
        let during = world.rows("SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid WHERE indrelid = 't'::regclass ORDER BY 1").await;
        assert_eq!(during, ["(plain)", "(t_pkey)", "(wider)"]);
        for step in STEPS {
            held.session.finish(&t, step).await.unwrap();
            held.session.finish(&t, step).await.unwrap();
        }
        assert_eq!((world.rows(definitions).await, world.rows(constraints).await), before);
        held.session.close().await;
    }
}

#[tokio::test]
async fn a_definition_is_made_again_under_another_schema() {
    let Some(world) = World::new().await else { return };
    let map = SchemaMap(vec![("public".into(), "Copy".into()), ("other".into(), "Copy".into())]);
    let mut held = world.held_mapped("p", map).await;
    let parent = table(("other", "parent"), &[("id", "integer"), ("code", "text")], 1);
    let parent = defined(
        &parent,
        &json!({"indexes": [{"name": "parent_code_key", "excludes": true, "columns": ["code"], "identity": false,
            "ddl": {"Constraint": "UNIQUE (code)"}}]}),
    );
    let columns = [("id", "integer"), ("m", "public.mood!"), ("code", "text"), ("stranger", "integer")];
    let t = table(("public", "t"), &columns, 1);
    let column = |name: &str, sql_type: &str, generated: Option<&str>| json!({"name": name, "sql_type": sql_type, "not_null": name == "id", "collation": null, "generated": generated});
    let key = |name: &str, columns: &str, referenced: &str, suffix: &str| {
        json!({"name": name, "columns": [columns], "referenced": {"schema": "other", "name": referenced},
            "referenced_columns": [columns], "suffix": suffix})
    };
    let mut code = column("code", "text", None);
    code["collation"] = json!("pg_catalog.\"C\"");
    let t = defined(
        &t,
        &json!({
            "columns": [column("id", "integer", None), column("m", "public.mood", None), code,
                column("happy", "boolean", Some("(m = 'happy'::public.mood)")), column("stranger", "integer", None)],
            "types": [{"schema": "public", "name": "mood", "kind": {"Enum": {"labels": ["sad", "happy"]}}}],
            "indexes": [
                {"name": "t_m", "excludes": false, "columns": ["m"], "identity": false,
                    "ddl": {"Index": {"unique": false, "using": "btree (m) WHERE (m = 'sad'::public.mood)"}}},
                {"name": "parent_code_key", "excludes": true, "columns": ["code"], "identity": false,
                    "ddl": {"Index": {"unique": true, "using": "btree (code)"}}},
            ],
            "foreign_keys": [key("t_code", "code", "parent", " ON UPDATE CASCADE ON DELETE CASCADE"),
                key("t_stranger", "stranger", "stranger", "")],
        }),
    );
    held.ready(&parent).await;
    held.ready(&t).await;
    for table in [&parent, &t] {
        for step in STEPS {
            held.session.finish(table, step).await.unwrap();
            held.session.finish(table, step).await.unwrap();
        }
    }
    held.load(&parent, &[vec![insert(&["1", "c"])]]).await.unwrap();
    held.load(&t, &[vec![insert(&["1", "happy", "c", "5"])]]).await.unwrap();
    // Trap 5: a parent that moves as delete and insert must not take its children along.
    held.load(&parent, &[vec![super::world::moved(&["1"], &["2", "c"])]]).await.unwrap();
    assert_eq!(world.rows("SELECT * FROM \"Copy\".t").await, ["(1,happy,c,t,5)"]);
    let types =
        "SELECT n.nspname FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace WHERE typname = 'mood'";
    assert_eq!(world.rows(types).await, ["(Copy)"]);
    let keys = "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f'";
    let expected = "(t_code,\"FOREIGN KEY (code) REFERENCES \"\"Copy\"\".parent(code) ON UPDATE CASCADE ON DELETE CASCADE\")";
    assert_eq!(world.rows(keys).await, [expected], "the one to a table outside the pipeline is left out");
    let indexes = "SELECT count(*) FROM pg_index WHERE indrelid = '\"Copy\".t'::regclass";
    assert_eq!(world.rows(indexes).await, ["(3)"], "a name that is taken does not cost the index");
}

#[tokio::test]
async fn partitions_are_made_again() {
    let Some(world) = World::new().await else { return };
    let map = SchemaMap(vec![("public".into(), "copy".into())]);
    let mut held = world.held_mapped("p", map).await;
    let t = table(("public", "t"), &[("id", "integer"), ("at", "date")], 2);
    let id = |name: &str| json!({"schema": "public", "name": name});
    let t = defined(
        &t,
        &json!({"partitioning": {"key": "RANGE (at)", "partitions": [
            {"id": id("t_old"), "parent": id("t"), "bound": "FOR VALUES FROM (MINVALUE) TO ('2020-01-01')", "key": "LIST (id)"},
            {"id": id("t_old_1"), "parent": id("t_old"), "bound": "FOR VALUES IN (1)", "key": null},
            {"id": id("t_rest"), "parent": id("t"), "bound": "DEFAULT", "key": null},
        ]}}),
    );
    held.ready(&t).await;
    held.load(&t, &[vec![insert(&["1", "2019-01-01"]), insert(&["1", "2021-01-01"])]]).await.unwrap();
    let part: Vec<_> = (0..600).map(|n: i32| insert(&[&(n + 10).to_string(), "2022-01-01"])).collect();
    held.load(&t, &[part]).await.unwrap();
    let moved = super::world::moved(&["1", "2019-01-01"], &["1", "2023-01-01"]);
    held.load(&t, &[vec![moved]]).await.unwrap();
    let rows = world.rows("SELECT tableoid::regclass, count(*) FROM copy.t GROUP BY 1 ORDER BY 1").await;
    assert_eq!(rows, ["(copy.t_rest,602)"]);
    let partitions = "SELECT count(*) FROM pg_partition_tree('copy.t') WHERE isleaf";
    assert_eq!(world.rows(partitions).await, ["(2)"]);
    let error = held.load(&t, &[vec![insert(&["7", "2019-01-01"])]]).await.unwrap_err();
    assert_eq!((error.kind(), error.table()), (ErrorKind::Data, Some(&t.id)), "no partition for the row");
}

#[tokio::test]
async fn an_identity_that_is_not_the_primary_key() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("code", "text"), ("id", "integer")], 1);
    let t = defined(
        &t,
        &json!({"primary_key": {"name": "t_pkey", "columns": ["id"]},
            "indexes": [{"name": "t_code", "excludes": true, "columns": ["code"], "identity": true,
                "ddl": {"Index": {"unique": true, "using": "btree (code)"}}}]}),
    );
    held.session.prepare(&t, None).await.unwrap();
    held.open_table(&t).await;
    held.session.finish(&t, FinishStep::Key).await.unwrap();
    let names = "SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid WHERE indrelid = 't'::regclass ORDER BY 1";
    assert_eq!(
        world.rows(names).await,
        ["(t_code)"],
        "the primary key is secondary, and comes after the window"
    );
    held.session.finish(&t, FinishStep::Indexes).await.unwrap();
    assert_eq!(world.rows(names).await, ["(t_code)", "(t_pkey)"]);
    held.load(&t, &[vec![insert(&["a", "1"]), insert(&["b", "2"])]]).await.unwrap();
    held.load(&t, &[vec![update(&["a", "2"]), update(&["b", "1"])]]).await.unwrap();
    assert_eq!(world.rows("SELECT * FROM t ORDER BY code").await, ["(a,2)", "(b,1)"]);
}

#[tokio::test]
async fn types_of_extensions_and_enums_that_differ() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "public.citext!"), ("v", "text")], 1);
    let citext =
        json!({"schema": "public", "name": "citext", "kind": {"Extension": {"extension": "citext"}}});
    let t = defined(&t, &json!({"types": [citext]}));
    let destination = registry::destination(&world.url).unwrap();
    let map = SchemaMap::default();
    let findings = destination.check(std::slice::from_ref(&t), &map).await.unwrap();
    assert_eq!(
        findings.iter().map(|f| (f.severity, f.code)).collect::<Vec<_>>(),
        [(Severity::Error, "extension")]
    );
    let error = held.session.prepare(&t, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    world.sql(error.remedy().unwrap()).await;
    held.ready(&t).await;
    held.load(&t, &[vec![insert(&["Abc", "1"]), insert(&["x", "2"])]]).await.unwrap();
    held.load(&t, &[vec![super::world::moved(&["Abc"], &["aBC", "1"]), update(&["x", "3"])]]).await.unwrap();
    assert_eq!(world.rows("SELECT * FROM t ORDER BY v").await, ["(aBC,1)", "(x,3)"]);

    world.sql("CREATE TYPE mood AS ENUM ('sad')").await;
    let e = table(("public", "e"), &[("id", "integer"), ("m", "public.mood!")], 1);
    let mood = json!({"schema": "public", "name": "mood", "kind": {"Enum": {"labels": ["sad", "it's"]}}});
    let e = defined(&e, &json!({"types": [mood]}));
    let error = held.session.prepare(&e, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    world.sql(error.remedy().unwrap()).await;
    held.ready(&e).await;
}

#[tokio::test]
async fn check_finds_what_would_hurt() {
    let (Some(world), Some(server)) = (World::new().await, server()) else { return };
    let database = world.rows("SELECT current_database()").await[0].trim_matches(['(', ')']).to_owned();
    let role = format!("limited_{database}");
    world
        .sql(&format!(
            "CREATE ROLE {role} LOGIN; CREATE TABLE t (id int8 PRIMARY KEY); GRANT ALL ON TABLE t TO {role}; \
             CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
             CREATE TRIGGER ordinary BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); \
             CREATE TRIGGER always BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); \
             ALTER TABLE t ENABLE ALWAYS TRIGGER always; \
             CREATE TABLE child (id int8 REFERENCES t ON DELETE CASCADE)"
        ))
        .await;
    let t = table(("public", "t"), &[("id", "integer")], 1);
    let map = SchemaMap::default();
    let url = server.url_as(&role, "", &database);
    let destination = registry::destination(&url).unwrap();
    let findings = destination.check(std::slice::from_ref(&t), &map).await.unwrap();
    let codes: Vec<_> = findings.iter().map(|finding| finding.code).collect();
    for code in ["create_privilege", "columns", "owner_privilege", "trigger_always", "trigger", "cascade"] {
        assert!(codes.contains(&code), "{code} in {findings:?}");
    }
    let grants = findings.iter().filter(|f| matches!(f.code, "create_privilege" | "cascade"));
    for grant in grants.filter_map(|finding| finding.remedy.clone()) {
        world.sql(&grant).await;
    }
    world.sql(&format!("ALTER TABLE t OWNER TO {role}; ALTER TABLE t ALTER id TYPE integer; ALTER TABLE child OWNER TO {role}")).await;
    let findings = destination.check(&[t], &map).await.unwrap();
    let codes: Vec<_> = findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["trigger_always"], "{findings:?}");
    world.sql(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn a_user_who_may_not_switch_triggers_off_can_still_load() {
    let (Some(world), Some(server)) = (World::new().await, server()) else { return };
    let database = world.rows("SELECT current_database()").await[0].trim_matches(['(', ')']).to_owned();
    let role = format!("plain_{database}");
    world.sql(&format!("CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {database} TO {role}")).await;
    let url = server.url_as(&role, "", &database);
    let session = super::world::open(&url, "p", &SchemaMap::default()).await.unwrap();
    let t = table(("mine", "t"), &[("id", "integer"), ("v", "text")], 1);
    session.prepare(&t, None).await.unwrap();
    session.finish(&t, FinishStep::Key).await.unwrap();
    let helper = world.held("other").await;
    let part = helper.part(&t, &[insert(&["1", "a"])]).await;
    let mut load = session.begin(&helper.identity(syncline_core::LoadKind::Bookkeeping)).await.unwrap();
    load.write(part).await.unwrap();
    load.commit(&syncline_core::Delta::default()).await.unwrap();
    assert_eq!(world.rows("SELECT * FROM mine.t").await, ["(1,a)"]);
    session.close().await;
    helper.session.close().await;
}

#[tokio::test]
async fn two_tables_that_would_become_one_are_refused() {
    let Some(world) = World::new().await else { return };
    let map = SchemaMap(vec![("a".into(), "c".into()), ("b".into(), "c".into())]);
    let held = world.held_mapped("p", map).await;
    let of = |schema| table((schema, "t"), &[("id", "integer")], 1);
    held.prepare(&of("a"), None).await;
    let error = held.session.prepare(&of("b"), Some(Prepare::Recreate)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("a.t") && error.to_string().contains("b.t"), "{error}");
}
