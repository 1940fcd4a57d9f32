//! `diff` over generated tables: every kind of key and of value, mutated at random; what is found is what two dumps differ by.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::RangeInclusive;

use rusqlite::Connection;
use serde_json::Value;
use syncline_testkit::compare::postgres::Comparison;
use syncline_testkit::process::Outcome;

use super::diff::{counts, diff, tables};
use super::pair::{COPY, Pair, SHOP};
use crate::process::EndsWith;

/// Rows of a table before it is mutated.
const ROWS: u64 = 800;

/// Types of keys, with a value for each number `i`. The last has none.
const KEYS: [(&str, &str); 8] = [
    ("int", "$i"),
    ("bigint", "-9000000000000000000 + $i * 1500000000000001"),
    ("text", "'Key é ' || $i"),
    ("uuid", "md5($i::text)::uuid"),
    ("bytea", "decode(md5($i::text) || md5('a' || $i) || md5('b' || $i), 'hex')"),
    ("numeric(12, 2)", "$i + 0.50"),
    ("timestamptz", "timestamptz '1999-12-31 23:59:59.5+00' + $i * interval '0.000001 s'"),
    ("date", "date '0099-01-01' + $i::int"),
];

/// Types of other columns, with a value for each number `i` and variant `v`: two variants of one row are never equal.
const VALUES: [(&str, &str); 20] = [
    ("boolean", "($i + $v) % 2 = 0"),
    ("smallint", "(-32768 + ($i + $v) % 60000)::int2"),
    ("bigint", "9223372036854775807 - $i - $v"),
    ("real", "(($i + 0.1) / (3 + $v))::float4"),
    (
        "double precision",
        "CASE ($i + $v) % 3 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE ($i / 7.0)::text END::float8",
    ),
    ("numeric", "($i::numeric ^ 9) + 1.10 + $v"),
    ("numeric(14, 4)", "($i + $v) * 1.0001"),
    ("text", "repeat('ü', ($i % 9)::int) || chr(9) || '\\\\' || chr(10) || $v"),
    ("varchar(30)", "'v' || $i || ' ' || $v"),
    ("char(8)", "'c' || $v"),
    ("bytea", "decode(md5($i::text || $v), 'hex')"),
    ("date", "date '2024-02-29' + ($i * 3 + $v)::int"),
    ("time", "time '00:00' + ($i + $v) * interval '1.000001 s'"),
    ("timestamp", "timestamp '1969-12-31 23:59:59.999999' + ($i * 2 + $v) * interval '1 us'"),
    ("timestamptz", "timestamptz '2024-03-31 01:59:59+00' + ($i * 2 + $v) * interval '1 h'"),
    ("uuid", "md5($i || 'u' || $v)::uuid"),
    ("jsonb", "jsonb_build_object('i', $i, 'v', $v, 'n', null)"),
    ("int[]", "ARRAY[$i, NULL, $v]::int[]"),
    ("interval", "$i * interval '1 h' + $v * interval '1 s'"),
    ("inet", "inet '10.0.0.0' + ($i * 2 + $v)"),
];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A table that was made up.
struct Table {
    name: String,
    /// Expressions over `$i`.
    key: Vec<&'static str>,
    /// Expressions over `$i` and `$v`, of the columns `c0`, `c1` and so on.
    values: Vec<&'static str>,
    definition: String,
}

impl Table {
    fn new(name: String, random: &mut Random, of_key: usize) -> Self {
        // One key in three has a second part; the last kind of table has none.
        let mut keys: Vec<(&str, &str)> = KEYS.get(of_key).copied().into_iter().collect();
        if !keys.is_empty() && random.below(3) == 0 {
            keys.insert(0, ("text", "'part ' || $i % 3"));
        }
        let values: Vec<(&str, &str)> =
            (0..1 + random.below(6)).map(|_| VALUES[usize::try_from(random.below(20)).unwrap()]).collect();
        let mut columns: Vec<String> = Vec::new();
        columns.extend(values.iter().enumerate().map(|(at, (of_type, _))| format!("c{at} {of_type}")));
        columns.extend(keys.iter().enumerate().map(|(at, (of_type, _))| format!("k{at} {of_type}")));
        if !keys.is_empty() {
            let names: Vec<String> = (0..keys.len()).rev().map(|at| format!("k{at}")).collect();
            columns.push(format!("PRIMARY KEY ({})", names.join(", ")));
        }
        Self {
            definition: format!("CREATE TABLE {name} ({})", columns.join(", ")),
            name,
            key: keys.into_iter().map(|(_, value)| value).collect(),
            values: values.into_iter().map(|(_, value)| value).collect(),
        }
    }

    /// Rows of these numbers; one value in eleven is NULL.
    fn insert(&self, numbers: &str) -> String {
        let values = self.values.iter().enumerate();
        let values =
            values.map(|(at, value)| format!("CASE WHEN i % 11 <> {at} THEN {} END", at_row(value, "i", 0)));
        let keys = self.key.iter().map(|key| at_row(key, "i", 0));
        let columns: Vec<String> = values.chain(keys).collect();
        format!("INSERT INTO {} SELECT {} FROM {numbers} i;\n", self.name, columns.join(", "))
    }

    /// Which row a number is. Without a key, all that look like it.
    fn row(&self, number: u64) -> String {
        let number = format!("{number}::bigint");
        if self.key.is_empty() {
            return format!("c0 IS NOT DISTINCT FROM ({})", at_row(self.values[0], &number, 0));
        }
        let part = |(at, key): (usize, &&str)| format!("k{at} = ({})", at_row(key, &number, 0));
        self.key.iter().enumerate().map(part).collect::<Vec<_>>().join(" AND ")
    }

    /// Statements that change about so many rows.
    fn mutations(&self, random: &mut Random, count: u64) -> String {
        let mut sql = String::new();
        for new in 0..count {
            let number = 1 + random.below(ROWS);
            let row = self.row(number);
            let column = random.below(self.values.len() as u64);
            match random.below(5) {
                0 => writeln!(sql, "DELETE FROM {} WHERE {row};", self.name).unwrap(),
                1 => sql += &self.insert(&format!("generate_series({0}::bigint, {0})", 5000 + new)),
                2 => writeln!(sql, "UPDATE {} SET c{column} = NULL WHERE {row};", self.name).unwrap(),
                _ => {
                    let value = self.values[usize::try_from(column).unwrap()];
                    let value = at_row(value, &format!("{number}::bigint"), 1 + random.below(2));
                    writeln!(sql, "UPDATE {} SET c{column} = {value} WHERE {row};", self.name).unwrap();
                }
            }
        }
        sql
    }

    /// Every row as the server writes it, by its key; rows that are equal are counted.
    fn dump(&self, ask: impl Fn(&str) -> String) -> BTreeMap<String, u64> {
        let key: Vec<String> = (0..self.key.len()).map(|at| format!("k{at}")).collect();
        let key =
            if key.is_empty() { "''".to_owned() } else { format!("md5(ROW({})::text)", key.join(", ")) };
        let lines = ask(&format!("SELECT {key} || ' ' || md5(t::text) FROM {} t", self.name));
        let mut rows = BTreeMap::new();
        lines.lines().for_each(|line| *rows.entry(line.to_owned()).or_insert(0) += 1);
        rows
    }
}

fn at_row(expression: &str, number: &str, variant: u64) -> String {
    format!("({})", expression.replace("$i", number).replace("$v", &variant.to_string()))
}

/// Missing, surplus and changed rows, as two dumps say.
fn truth(left: &BTreeMap<String, u64>, right: &BTreeMap<String, u64>, has_key: bool) -> [u64; 3] {
    let more = |these: &BTreeMap<String, u64>, those: &BTreeMap<String, u64>| {
        let more = these.iter().map(|(row, count)| {
            (row.clone(), count.saturating_sub(those.get(row).copied().unwrap_or_default()))
        });
        more.filter(|(_, count)| *count > 0).collect::<BTreeMap<String, u64>>()
    };
    let (missing, surplus) = (more(left, right), more(right, left));
    let sum = |rows: &BTreeMap<String, u64>| rows.values().sum::<u64>();
    if !has_key {
        return [sum(&missing), sum(&surplus), 0];
    }
    let keys = |rows: &BTreeMap<String, u64>| {
        rows.keys().map(|row| row.split(' ').next().unwrap_or_default().to_owned()).collect::<BTreeSet<_>>()
    };
    let changed = keys(&missing).intersection(&keys(&surplus)).count() as u64;
    [sum(&missing) - changed, sum(&surplus) - changed, changed]
}

fn found(outcome: &Outcome) -> BTreeMap<String, [u64; 3]> {
    let of_table = |(name, table): (String, Value)| {
        let [missing, surplus, changed, repeated] = counts(&table);
        assert_eq!(repeated, 0, "{name}");
        (name, [missing, surplus, changed])
    };
    tables(outcome).into_iter().map(of_table).collect()
}

fn generated(seed: u64) -> (Random, Vec<Table>) {
    let mut random = Random(seed);
    let tables = (0..=KEYS.len()).map(|key| Table::new(format!("g{seed}_{key}"), &mut random, key)).collect();
    (random, tables)
}

fn filled(tables: &[Table]) -> String {
    let rows = format!("generate_series(1::bigint, {ROWS})");
    tables.iter().map(|table| format!("{};\n{}", table.definition, table.insert(&rows))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_is_what_two_dumps_differ_by_and_a_repair_ends_it() {
    found_is_true_and_repaired(1..=3, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_databases_find_themselves_is_what_two_dumps_differ_by_and_a_repair_ends_it() {
    found_is_true_and_repaired(11..=13, &["--digest", "in-database"]).await;
}

async fn found_is_true_and_repaired(seeds: RangeInclusive<u64>, how: &[&str]) {
    let Some(pair) = Pair::start().await else { return };
    for seed in seeds {
        let (mut random, tables) = generated(seed);
        for (server, database) in [(&pair.source, SHOP), (&pair.destination, COPY)] {
            server.execute(database, &filled(&tables)).await;
        }
        let pattern = format!("public.g{seed}_*");
        let compare = |more: &[&str]| diff(&pair, &[&["--table", &pattern], how, more].concat());
        compare(&[]).ends_with(0);
        let mutations: String = tables.iter().map(|table| table.mutations(&mut random, 30)).collect();
        pair.destination.execute(COPY, &mutations).await;
        let expected: BTreeMap<String, [u64; 3]> = tables
            .iter()
            .map(|table| {
                let sides =
                    (table.dump(|sql| pair.ask_source(sql)), table.dump(|sql| pair.ask_destination(sql)));
                (table.name.clone(), truth(&sides.0, &sides.1, !table.key.is_empty()))
            })
            .collect();
        assert!(expected.values().flatten().sum::<u64>() > 100, "seed {seed}: {expected:?}");
        assert_eq!(found(&compare(&["--output", "json"]).ends_with(3)), expected, "seed {seed}");
        compare(&["--repair", "--guard", "all=off"]).ends_with(0);
        pair.assert_equal(&Comparison::new()).await;
    }
}

/// Between families: what is planted in the copy is what is found in it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_planted_in_a_copy_of_another_family_is_found() {
    let Some(pair) = Pair::start().await else { return };
    let (mut random, tables) = generated(7);
    // SQLite has no NaN.
    pair.source.execute(SHOP, &filled(&tables).replace("'NaN'", "'Infinity'")).await;
    let file = pair.room.path("copy.db");
    let (source, copy) = (pair.source.url(SHOP), format!("sqlite:{}", file.display()));
    pair.room.run(&["sync", &source, &copy, "--mode", "snapshot"]).ends_with(0);
    let run = |more: &[&str]| pair.room.run(&[&["diff", &source, &copy], more].concat());
    run(&[]).ends_with(0);
    let sqlite = Connection::open(&file).unwrap();
    let mut expected = BTreeMap::new();
    for table in tables.iter().filter(|table| !table.key.is_empty()) {
        let rows: Vec<i64> = {
            let mut statement = sqlite.prepare(&format!("SELECT rowid FROM {}", table.name)).unwrap();
            let rows = statement.query_map([], |row| row.get(0)).unwrap();
            rows.map(Result::unwrap).collect()
        };
        let mut planted = [0; 3];
        for rowid in rows {
            if random.below(20) > 0 {
                continue;
            }
            let column = random.below(table.values.len() as u64);
            let (place, sql) = if random.below(2) == 0 {
                (0, format!("DELETE FROM {} WHERE rowid = {rowid}", table.name))
            } else {
                let set = format!("UPDATE {} SET c{column} = NULL", table.name);
                (2, format!("{set} WHERE rowid = {rowid} AND c{column} IS NOT NULL"))
            };
            planted[place] += sqlite.execute(&sql, []).unwrap() as u64;
        }
        expected.insert(table.name.clone(), planted);
    }
    let found = found(&run(&["--output", "json"]).ends_with(3));
    assert!(expected.values().flatten().sum::<u64>() > 100, "{expected:?}");
    for (name, planted) in &expected {
        assert_eq!(found[name], *planted, "{name}");
    }
    // A decimal key that the file writes as 6.5 and the server as 6.50 is found, and left by a repair.
    let others = ["--exclude", "public.g7_5"];
    run(&[&others[..], &["--repair", "--guard", "all=off"]].concat()).ends_with(0);
    run(&others).ends_with(0);
}
