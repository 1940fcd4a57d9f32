//! What a part of changes means, each case on every way a part can go.

use syncline_core::{ErrorKind, FinishStep, Part, RowKey, TableId};

use super::world::{Held, Say, World, counts, delete, insert, moved, table, truncate, update, upsert};

/// The ways a part can go; what a way needs besides the case's own changes is written with keys from a million on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Few changes, as arrays.
    Arrays,
    /// Many changes, staged.
    Staged,
    /// Many new rows beside the others, copied straight into the table.
    Straight,
}

const WAYS: [Way; 3] = [Way::Arrays, Way::Staged, Way::Straight];
const FILL: usize = 600;

impl Way {
    fn fill(self, part: &[Say], row: impl Fn(usize) -> Vec<String>) -> Vec<Say> {
        let filler = |n: usize| {
            let row = row(1_000_000 + n);
            let row: Vec<&str> = row.iter().map(String::as_str).collect();
            if self == Self::Straight { insert(&row) } else { upsert(&row) }
        };
        let count = if self == Self::Arrays { 0 } else { FILL };
        part.iter().cloned().chain((0..count).map(filler)).collect()
    }

    fn filled(self) -> u64 {
        if self == Self::Arrays { 0 } else { FILL as u64 }
    }
}

/// A case on the table `t (id int4 primary key, u text unique, big text)`.
struct Case {
    start: &'static [[&'static str; 3]],
    changes: Vec<Say>,
    end: &'static [&'static str],
    /// Applied, unchanged, rereads.
    counts: (u64, u64, u64),
}

impl Case {
    async fn run(self) {
        for way in WAYS {
            for unique in [true, false] {
                let Some(world) = World::new().await else { return };
                let mut held = world.held("p").await;
                let t = table(("public", "t"), &[("id", "integer"), ("u", "text"), ("big", "text")], 1);
                held.ready(&t).await;
                if unique {
                    world.sql("CREATE UNIQUE INDEX ON t (u)").await;
                }
                let start: Vec<Say> = self.start.iter().map(|row| insert(row)).collect();
                held.load(&t, &[start]).await.unwrap();
                let part = way.fill(&self.changes, |n| vec![n.to_string(), format!("u{n}"), "x".into()]);
                let durable =
                    held.load(&t, &[part]).await.unwrap_or_else(|error| panic!("{way:?}: {error:?}"));
                let rows = world.rows("SELECT * FROM t WHERE id < 1000000 ORDER BY id").await;
                assert_eq!(rows, self.end, "{way:?} unique={unique}");
                let (applied, unchanged, rereads) = self.counts;
                assert_eq!(
                    counts(&durable),
                    (applied + way.filled(), unchanged, rereads),
                    "{way:?} {unique}"
                );
                held.session.close().await;
            }
        }
    }
}

#[tokio::test]
async fn insert_update_and_delete() {
    Case {
        start: &[["1", "a", "A"], ["2", "b", "B"]],
        changes: vec![update(&["1", "a", "AA"]), delete(&["2"]), insert(&["3", "c", "C"]), delete(&["9"])],
        end: &["(1,a,AA)", "(3,c,C)"],
        counts: (3, 1, 0),
    }
    .run()
    .await;
}

#[tokio::test]
async fn trap_10_keys_swap_and_chain_in_one_batch() {
    Case {
        start: &[["1", "a", "A"], ["2", "b", "B"], ["3", "c", "C"]],
        changes: vec![
            moved(&["2"], &["1", "b", "B"]),
            moved(&["1"], &["2", "a", "A"]),
            moved(&["3"], &["4", "c", "C"]),
        ],
        end: &["(1,b,B)", "(2,a,A)", "(4,c,C)"],
        counts: (3, 0, 0),
    }
    .run()
    .await;
    Case {
        start: &[["1", "a", "A"], ["2", "b", "B"], ["3", "c", "C"]],
        changes: vec![
            insert(&["1", "n", "N"]),
            moved(&["1"], &["2", "a", "A"]),
            moved(&["2"], &["3", "b", "B"]),
            moved(&["3"], &["4", "c", "C"]),
        ],
        end: &["(1,n,N)", "(2,a,A)", "(3,b,B)", "(4,c,C)"],
        counts: (4, 0, 0),
    }
    .run()
    .await;
}

#[tokio::test]
async fn trap_5_a_unique_value_goes_to_a_lower_key() {
    Case {
        start: &[["1", "a", "A"], ["5", "e", "E"]],
        changes: vec![update(&["1", "e", "A"]), update(&["5", "other", "E"])],
        end: &["(1,e,A)", "(5,other,E)"],
        counts: (2, 0, 0),
    }
    .run()
    .await;
    Case {
        start: &[["5", "e", "E"]],
        changes: vec![insert(&["1", "e", "A"]), delete(&["5"])],
        end: &["(1,e,A)"],
        counts: (2, 0, 0),
    }
    .run()
    .await;
}

#[tokio::test]
async fn trap_5_two_rows_swap_unique_values() {
    Case {
        start: &[["1", "a", "A"], ["5", "e", "E"]],
        changes: vec![update(&["1", "e", "A"]), update(&["5", "a", "E"])],
        end: &["(1,e,A)", "(5,a,E)"],
        counts: (2, 0, 0),
    }
    .run()
    .await;
}

#[tokio::test]
async fn absent_columns_stay_as_they_are() {
    Case {
        start: &[["1", "a", "A"], ["2", "b", "B"], ["3", "c", "C"]],
        changes: vec![update(&["1", "n", "~"]), update(&["2", "~", "BB"]), update(&["3", "c", "~"])],
        end: &["(1,n,A)", "(2,b,BB)", "(3,c,C)"],
        counts: (2, 1, 0),
    }
    .run()
    .await;
}

#[tokio::test]
async fn trap_8_absent_columns_come_from_the_row_at_the_old_key() {
    Case {
        start: &[["1", "a", "A"], ["2", "b", "B"]],
        changes: vec![moved(&["2"], &["1", "b", "~"]), moved(&["1"], &["2", "a", "~"])],
        end: &["(1,b,B)", "(2,a,A)"],
        counts: (2, 0, 0),
    }
    .run()
    .await;
    Case {
        start: &[["1", "a", "A"]],
        changes: vec![insert(&["1", "n", "N"]), moved(&["1"], &["2", "a", "~"])],
        end: &["(1,n,N)", "(2,a,A)"],
        counts: (2, 0, 0),
    }
    .run()
    .await;
}

#[tokio::test]
async fn absent_columns_survive_a_swap_of_unique_values() {
    Case {
        start: &[["1", "a", "A"], ["5", "e", "E"], ["6", "f", "F"]],
        changes: vec![update(&["1", "e", "~"]), update(&["5", "a", "~"]), update(&["6", "f", "~"])],
        end: &["(1,e,A)", "(5,a,E)", "(6,f,F)"],
        counts: (2, 1, 0),
    }
    .run()
    .await;
}

#[tokio::test]
async fn a_row_without_its_absent_columns_is_to_be_read_again() {
    Case {
        start: &[["1", "a", "A"]],
        changes: vec![update(&["1", "a", "~"]), update(&["7", "g", "~"]), moved(&["8"], &["9", "i", "~"])],
        end: &["(1,a,A)"],
        counts: (0, 1, 2),
    }
    .run()
    .await;
}

fn int_key(number: i32) -> RowKey {
    let mut bytes = 4_u32.to_le_bytes().to_vec();
    bytes.extend(number.to_be_bytes());
    RowKey(bytes.into_boxed_slice())
}

#[tokio::test]
async fn missing_rows_go_on_the_re_read_list_in_the_same_commit() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("u", "text"), ("big", "text")], 1);
    held.ready(&t).await;
    let durable = held.load(&t, &[vec![update(&["7", "g", "~"])]]).await.unwrap();
    let id = TableId::new("public", "t");
    assert_eq!(durable.rereads, [(id.clone(), int_key(7))]);
    let checkpoint = held.session.checkpoint().await.unwrap();
    assert!(checkpoint.tables[&id].rereads.contains(&int_key(7)));

    let part = held.part(&t, &[update(&["8", "h", "~"])]).await;
    let mut delta = held.advance();
    delta.reread_missing = false;
    let error = one_load(&held, part, &delta).await.unwrap_err();
    assert_eq!((error.kind(), error.table()), (ErrorKind::Data, Some(&id)));
    assert_eq!(held.session.checkpoint().await.unwrap(), checkpoint);
}

async fn one_load(
    held: &Held<'_>,
    part: Part,
    delta: &syncline_core::Delta,
) -> syncline_core::Result<syncline_core::Durable> {
    let kind = syncline_core::LoadKind::Bookkeeping;
    let mut load = held.session.begin(&held.identity(kind)).await?;
    load.write(part).await?;
    load.commit(delta).await
}

#[tokio::test]
async fn rows_that_are_the_same_are_not_written() {
    for way in WAYS {
        let Some(world) = World::new().await else { return };
        let mut held = world.held("p").await;
        let t = table(("public", "t"), &[("id", "integer"), ("n", "numeric"), ("j", "json")], 1);
        held.ready(&t).await;
        let start = [["1", "1.0", "{\"a\":1}"], ["2", "2", "{}"], ["3", "3", "[]"]];
        held.load(&t, &[start.iter().map(|row| insert(row)).collect()]).await.unwrap();
        let before = world.rows("SELECT xmin::text FROM t ORDER BY id").await;
        let changes =
            [update(&["1", "1.00", "{\"a\":1}"]), update(&["2", "2", "{}"]), update(&["3", "3", "[ ]"])];
        let part = way.fill(&changes, |n| vec![n.to_string(), "1".into(), "{}".into()]);
        let durable = held.load(&t, &[part]).await.unwrap();
        assert_eq!(counts(&durable), (2 + way.filled(), 1, 0), "{way:?}");
        let after = world.rows("SELECT xmin::text FROM t WHERE id < 10 ORDER BY id").await;
        assert_ne!(before[0], after[0], "1.00 is not 1.0");
        assert_eq!(before[1], after[1]);
        assert_ne!(before[2], after[2], "[ ] is not []");
        let rows = world.rows("SELECT * FROM t WHERE id < 10 ORDER BY id").await;
        assert_eq!(rows, ["(1,1.00,\"{\"\"a\"\":1}\")", "(2,2,{})", "(3,3,\"[ ]\")"]);
    }
}

#[tokio::test]
async fn a_key_that_only_looks_different_is_rewritten() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("k", "numeric"), ("v", "text")], 1);
    held.ready(&t).await;
    held.load(&t, &[vec![insert(&["1.0", "a"]), insert(&["2.0", "b"])]]).await.unwrap();
    let part = vec![moved(&["1.0"], &["1.00", "a"]), delete(&["2.0"]), insert(&["2.00", "c"])];
    held.load(&t, &[part]).await.unwrap();
    assert_eq!(world.rows("SELECT * FROM t ORDER BY k").await, ["(1.00,a)", "(2.00,c)"]);
}

#[tokio::test]
async fn truncate_comes_first_and_counts_as_one() {
    for way in WAYS {
        let Some(world) = World::new().await else { return };
        let mut held = world.held("p").await;
        let t = table(("public", "t"), &[("id", "integer"), ("u", "text")], 1);
        held.ready(&t).await;
        held.load(&t, &[vec![insert(&["1", "a"]), insert(&["2", "b"])]]).await.unwrap();
        let changes = [truncate(), insert(&["2", "bb"])];
        let part = way.fill(&changes, |n| vec![n.to_string(), "x".into()]);
        let durable = held.load(&t, &[part]).await.unwrap();
        assert_eq!(counts(&durable), (2 + way.filled(), 0, 0));
        assert_eq!(world.rows("SELECT * FROM t WHERE id < 1000000").await, ["(2,bb)"]);
    }
}

#[tokio::test]
async fn a_referenced_table_is_emptied_too() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("u", "text")], 1);
    held.ready(&t).await;
    held.load(&t, &[vec![insert(&["1", "a"])]]).await.unwrap();
    world
        .sql("CREATE TABLE child (id int4 REFERENCES t (id) ON DELETE CASCADE); INSERT INTO child VALUES (1)")
        .await;
    held.session.finish(&t, FinishStep::ForeignKeys).await.unwrap();
    held.load(&t, &[vec![truncate(), insert(&["1", "b"])]]).await.unwrap();
    assert_eq!(world.rows("SELECT * FROM t").await, ["(1,b)"]);
    // Trap 5: a parent written again must not take its children away.
    assert_eq!(world.rows("SELECT * FROM child").await, ["(1)"]);
}

#[tokio::test]
async fn parts_apply_in_order_inside_one_commit() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("u", "text")], 1);
    held.ready(&t).await;
    let many = Way::Staged.fill(&[update(&["1", "b"])], |n| vec![n.to_string(), "x".into()]);
    let again = Way::Staged.fill(&[update(&["1", "c"])], |n| vec![n.to_string(), "y".into()]);
    let parts = [vec![insert(&["1", "a"])], many, again, vec![update(&["1", "d"])]];
    held.load(&t, &parts).await.unwrap();
    assert_eq!(world.rows("SELECT u, count(*) FROM t GROUP BY u ORDER BY u").await, ["(d,1)", "(y,600)"]);
}

#[tokio::test]
async fn new_rows_that_are_there_already_are_merged() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("u", "text")], 1);
    held.ready(&t).await;
    world.sql("INSERT INTO t VALUES (1000300, 'mine')").await;
    let part =
        Way::Straight.fill(&[insert(&["1", "a"]), delete(&["2"])], |n| vec![n.to_string(), "x".into()]);
    let durable = held.load(&t, &[part]).await.unwrap();
    assert_eq!(counts(&durable), (601, 1, 0));
    assert_eq!(world.rows("SELECT u, count(*) FROM t GROUP BY u ORDER BY u").await, ["(a,1)", "(x,600)"]);
}

#[tokio::test]
async fn trap_21_identity_always_and_generated_columns() {
    for way in WAYS {
        let Some(world) = World::new().await else { return };
        let mut held = world.held("p").await;
        world
            .sql(
                "CREATE TABLE t (id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
                 n int4, g int4 GENERATED ALWAYS AS (n * 2) STORED UNIQUE)",
            )
            .await;
        let t = table(("public", "t"), &[("id", "integer"), ("n", "integer")], 1);
        held.ready(&t).await;
        held.load(&t, &[vec![insert(&["1", "10"]), insert(&["2", "20"])]]).await.unwrap();
        let part =
            way.fill(&[update(&["1", "20"]), update(&["2", "10"])], |n| vec![n.to_string(), n.to_string()]);
        held.load(&t, &[part]).await.unwrap();
        let rows = world.rows("SELECT * FROM t WHERE id < 1000000 ORDER BY id").await;
        assert_eq!(rows, ["(1,20,40)", "(2,10,20)"], "{way:?}");
    }
}

#[tokio::test]
async fn tables_without_a_key_take_exactly_one_equal_row() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("a", "integer"), ("j", "json")], 0);
    held.ready(&t).await;
    let row = ["1", "{}"];
    held.load(&t, &[vec![insert(&row), insert(&row), insert(&row), insert(&["2", "NULL"])]]).await.unwrap();
    let part = vec![
        delete(&row),
        moved(&row, &["3", "~"]),
        delete(&["2", "NULL"]),
        delete(&["9", "NULL"]),
        moved(&["1", "{ }"], &["4", "[]"]),
    ];
    let durable = held.load(&t, &[part]).await.unwrap();
    assert_eq!(counts(&durable), (3, 2, 0));
    assert_eq!(world.rows("SELECT * FROM t ORDER BY a").await, ["(1,{})", "(3,{})"]);
    let mut many: Vec<Say> = (0..100).map(|_| insert(&["5", "NULL"])).collect();
    many.extend([delete(&["5", "NULL"]), truncate(), insert(&["6", "NULL"])]);
    let durable = held.load(&t, &[many]).await.unwrap();
    assert_eq!(counts(&durable), (103, 0, 0));
    assert_eq!(world.rows("SELECT * FROM t").await, ["(6,)"]);
}

#[tokio::test]
async fn a_table_changed_meanwhile_is_tried_again_and_bad_data_is_not() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("u", "text")], 1);
    held.ready(&t).await;
    held.load(&t, &[vec![insert(&["1", "a"]), insert(&["2", "b"])]]).await.unwrap();
    world.sql("CREATE UNIQUE INDEX ON t (u)").await;
    let swap = [vec![update(&["1", "b"]), update(&["2", "a"])]];
    assert_eq!(held.load(&t, &swap).await.unwrap_err().kind(), ErrorKind::Retriable);
    held.load(&t, &swap).await.unwrap();
    let error = held.load(&t, &[vec![insert(&["3", "a"])]]).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Data, Some("23505")));
    assert_eq!(error.table(), Some(&t.id));
    assert!(!format!("{error:?}").contains("(a)"), "values stay out of errors: {error:?}");
    held.load(&t, &[vec![update(&["1", "c"])]]).await.unwrap();
    assert_eq!(world.rows("SELECT * FROM t ORDER BY id").await, ["(1,c)", "(2,a)"]);
}

#[tokio::test]
async fn a_destination_without_the_key_is_refused_with_the_statement() {
    let Some(world) = World::new().await else { return };
    let mut held = world.held("p").await;
    let t = table(("public", "t"), &[("id", "integer"), ("u", "text")], 1);
    held.ready(&t).await;
    world.sql("ALTER TABLE t DROP CONSTRAINT t_pkey").await;
    held.session.finish(&t, FinishStep::ForeignKeys).await.unwrap();
    let error = held.load(&t, &[vec![insert(&["1", "a"])]]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    world.sql(error.remedy().unwrap()).await;
    held.load(&t, &[vec![insert(&["1", "a"])]]).await.unwrap();
}
