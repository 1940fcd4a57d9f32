//! Kinds of tables: partitioned, without a key, changed in number while the pipeline lives.

use syncline_testkit::compare::postgres::{Comparison, Definitions};

use super::pair::{Pair, SHOP};

#[tokio::test(flavor = "multi_thread")]
async fn partitioned_tables_arrive_with_their_partitions_and_rows_that_move_between_them() {
    let Some(pair) = Pair::start().await else { return };
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE event (id int, at date, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
             CREATE TABLE event_2024 PARTITION OF event FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
             CREATE TABLE event_2025 PARTITION OF event FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY LIST (id);
             CREATE TABLE event_2025_odd PARTITION OF event_2025 FOR VALUES IN (1, 3, 5, 7, 9);
             CREATE TABLE event_2025_rest PARTITION OF event_2025 DEFAULT;
             CREATE INDEX ON event (note);
             INSERT INTO event SELECT i % 100, date '2024-01-01' + i % 730, 'note ' || i FROM generate_series(1, 3000) i
                 ON CONFLICT DO NOTHING",
        )
        .await;
    pair.run_well(&[]);
    let comparison = Comparison::new().definitions(Definitions::Indexes);
    pair.assert_equal(&comparison).await;
    let partitions = "SELECT count(*) FROM pg_partition_tree('event') WHERE isleaf";
    assert_eq!(pair.ask_destination(partitions), "3");
    pair.source
        .execute(
            SHOP,
            "UPDATE event SET at = at + 365 WHERE id = 3 AND at < '2024-06-01';
             DELETE FROM event WHERE id = 9; UPDATE event SET note = 'changed' WHERE id = 50;
             CREATE TABLE event_2026 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
             INSERT INTO event SELECT i, '2026-05-05', 'later' FROM generate_series(1, 50) i",
        )
        .await;
    pair.run_well(&[]);
    pair.assert_equal(&comparison).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_loses_exactly_the_rows_that_were_deleted() {
    let Some(pair) = Pair::start().await else { return };
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE loose (a int, b text, c numeric); ALTER TABLE loose REPLICA IDENTITY FULL;
             INSERT INTO loose SELECT i % 20, CASE WHEN i % 3 > 0 THEN 'b' END, 1.0 FROM generate_series(1, 1000) i",
        )
        .await;
    pair.run_well(&[]);
    pair.assert_equal(&Comparison::new()).await;
    pair.source
        .execute(
            SHOP,
            "DELETE FROM loose WHERE ctid IN (SELECT ctid FROM loose WHERE a = 3 LIMIT 7);
             UPDATE loose SET c = 1.00 WHERE ctid IN (SELECT ctid FROM loose WHERE a = 4 LIMIT 5);
             UPDATE loose SET b = NULL WHERE ctid IN (SELECT ctid FROM loose WHERE a = 5 LIMIT 5);
             DELETE FROM loose WHERE ctid IN (SELECT ctid FROM loose WHERE b IS NULL LIMIT 11);
             INSERT INTO loose VALUES (1, 'b', 1.0), (1, 'b', 1.0), (NULL, NULL, NULL)",
        )
        .await;
    pair.run_well(&[]);
    pair.assert_equal(&Comparison::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_appear_later_are_taken_and_tables_that_go_are_left() {
    let Some(pair) = Pair::start().await else { return };
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE first (id int PRIMARY KEY); INSERT INTO first SELECT generate_series(1, 300)",
        )
        .await;
    pair.run_well(&[]);
    pair.source
        .execute(
            SHOP,
            "CREATE TABLE second (id int PRIMARY KEY, first int REFERENCES first);
             INSERT INTO second SELECT i, i FROM generate_series(1, 200) i; DELETE FROM first WHERE id > 250",
        )
        .await;
    pair.run_well(&[]);
    pair.assert_same().await;
    pair.source
        .execute(SHOP, "UPDATE second SET first = 1 WHERE id < 50; INSERT INTO first VALUES (1000)")
        .await;
    pair.run_well(&[]);
    pair.assert_same().await;
    let frozen = pair.ask_destination("SELECT count(*), sum(first) FROM second");
    pair.source.execute(SHOP, "DELETE FROM second WHERE id < 100; DELETE FROM first WHERE id = 1000").await;
    pair.run_well(&["--exclude", "public.second"]);
    pair.assert_equal(&Comparison::new().except("public.second")).await;
    assert_eq!(pair.ask_destination("SELECT count(*), sum(first) FROM second"), frozen);
}
