//! Cases: rows read by a version column. It is an integer here, which is a version everywhere; some rows have none.

use std::collections::BTreeMap;
use std::sync::Arc;

use syncline_core::{
    ReplicaState, RowKey, Source, TableSchema, Version, VersionPage, VersionPlace, VersionRange, VersionRows,
};

use crate::conformance::patiently;
use crate::conformance::replica::decode_full;
use crate::conformance::report::Outcome;
use crate::conformance::tables::{Row, Standard, Write, cells};

use super::support::{assert_rows, ok, select};
use super::{SourceFixture, SourceHarness};

const NOT_OFFERED: Outcome = Outcome::NotOffered("the source cannot be read by version");

/// A table whose rows share versions.
struct Versioned {
    fixture: Box<dyn SourceFixture>,
    source: Arc<dyn Source>,
    standard: Standard,
    table: Arc<TableSchema>,
    column: usize,
    /// The version of each row, by its key.
    versions: BTreeMap<Row, Option<i64>>,
}

/// What a page asks for.
type Bounds = (VersionRange, usize, usize);

impl Versioned {
    /// `None`: not offered.
    async fn new(harness: &dyn SourceHarness, standard: Standard) -> Option<Self> {
        let fixture = harness.fixture().await;
        let source = fixture.source();
        let _ = source.versions()?;
        let version = |n: i64| (n % 11 != 5).then_some(n % 7 - 2);
        let text = |n: i64| version(n).map_or("∅".to_owned(), |version| version.to_string());
        let row = |n: i64| match standard {
            Standard::Pairs => cells(&[&(n % 4).to_string(), &format!("k{n:03}"), &text(n)]),
            _ => cells(&[&n.to_string(), &format!("n{n}"), &text(n), "∅"]),
        };
        let writes: Vec<Write> = (0..60).map(|n| Write::Insert(standard, row(n))).collect();
        fixture.write(&writes).await;
        let selection = select(harness, fixture.as_ref(), &[standard]);
        let table = Arc::new(ok(source.discover(&selection).await).remove(0));
        let column = table.columns.iter().position(|column| ["qty", "v"].contains(&column.name.as_str()));
        let versions = (0..60).map(|n| (standard.identity(&row(n)), version(n))).collect();
        Some(Self { fixture, source, standard, table, column: column?, versions })
    }

    fn by_version(&self) -> &dyn syncline_core::Versions {
        self.source.versions().unwrap_or_else(|| panic!("a source that was asked before"))
    }

    fn version(&self, key: &Row) -> Version {
        self.versions[key].map_or(Version::NONE, Version)
    }

    /// All rows of a range, page by page.
    async fn pages(&self, (range, rows_max, bytes_max): Bounds) -> Vec<Vec<(Version, Row)>> {
        let (mut pages, mut after) = (Vec::new(), None::<VersionPlace>);
        loop {
            let page = VersionPage { range, after: after.as_ref(), rows_max, bytes_max };
            let page = patiently("a page", self.by_version().page(&self.table, self.column, &page)).await;
            let VersionRows { rows, is_end } = ok(page);
            let place = |n: usize| {
                let values = rows.column(self.column);
                ok(self.by_version().version(&self.table.columns[self.column], values, n))
            };
            let versions = (0..rows.num_rows()).map(place);
            pages.push(versions.zip(decode_full(self.fixture.as_ref(), &self.table, &rows)).collect());
            if is_end {
                return pages;
            }
            assert!(rows.num_rows() > 0, "an empty page that is not the last one");
            let last = rows.num_rows() - 1;
            let key: Vec<_> = self.table.row_key.iter().map(|&c| Arc::clone(rows.column(c))).collect();
            after = Some(VersionPlace { version: place(last), key: ok(RowKey::of(&key, last)) });
        }
    }

    fn expected(&self, range: &VersionRange) -> ReplicaState {
        let mut state = ReplicaState::default();
        let versions = self.versions.values().flatten().map(|version| Version(*version));
        versions.filter(|version| range.contains(*version)).for_each(|version| state.add(version));
        state
    }
}

const fn range(from: i64, to: i64) -> VersionRange {
    VersionRange { from: Version(from), to: Version(to) }
}

/// Pages of any size give each row once, ordered by version; rows without one come first, where they are asked for.
pub async fn pages_give_each_row_once_in_order(harness: &dyn SourceHarness) -> Outcome {
    for standard in [Standard::Items, Standard::Pairs] {
        let Some(versioned) = Versioned::new(harness, standard).await else { return NOT_OFFERED };
        let truth = versioned.fixture.truth(standard).await;
        let some = VersionRange { from: Version::MIN, to: Version::MAX };
        for (range, rows_max, bytes_max) in [
            (VersionRange::ALL, 1, usize::MAX),
            (VersionRange::ALL, 7, usize::MAX),
            (VersionRange::ALL, 1000, 64),
            (some, 4, usize::MAX),
            (range(-1, 3), 5, usize::MAX),
            (range(2, 2), 3, usize::MAX),
            (VersionRange { from: Version::NONE, to: Version(0) }, 6, usize::MAX),
            (range(100, 200), 6, usize::MAX),
        ] {
            let pages = versioned.pages((range, rows_max, bytes_max)).await;
            assert!(pages.iter().all(|page| page.len() <= rows_max), "more rows than were asked for");
            let found: Vec<(Version, Row)> = pages.into_iter().flatten().collect();
            assert!(found.is_sorted_by_key(|(version, _)| *version), "not in the order of versions");
            for (version, row) in &found {
                let key = versioned.standard.identity(row);
                assert_eq!(*version, versioned.version(&key), "the version of {key:?}");
            }
            let mut rows: Vec<Row> = found.into_iter().map(|(_, row)| row).collect();
            rows.sort();
            let of_range = |row: &&Row| range.contains(versioned.version(&standard.identity(row)));
            let mut expected: Vec<Row> = truth.iter().filter(of_range).cloned().collect();
            expected.sort();
            assert_rows(&format!("{} within {range:?}", standard.name()), &rows, &expected);
        }
    }
    Outcome::Passed
}

/// A page ends with the row that makes it as large as it may be: never without one.
pub async fn a_page_is_bounded_in_bytes(harness: &dyn SourceHarness) -> Outcome {
    let Some(versioned) = Versioned::new(harness, Standard::Items).await else { return NOT_OFFERED };
    let pages = versioned.pages((VersionRange::ALL, 1000, 1)).await;
    assert!(pages.iter().all(|page| page.len() <= 1), "a page of one row is large enough");
    assert_eq!(pages.iter().flatten().count(), versioned.versions.len());
    Outcome::Passed
}

/// States say how many rows there are, and of which versions; those of ranges add up.
pub async fn states_are_those_of_the_rows(harness: &dyn SourceHarness) -> Outcome {
    let Some(versioned) = Versioned::new(harness, Standard::Items).await else { return NOT_OFFERED };
    let unversioned = versioned.versions.values().filter(|version| version.is_none()).count() as u64;
    for (range, without) in [
        (VersionRange::ALL, unversioned),
        (VersionRange { from: Version::NONE, to: Version(1) }, unversioned),
        (VersionRange { from: Version::MIN, to: Version::MAX }, 0),
        (range(-2, 1), 0),
        (range(2, 2), 0),
        (range(50, 60), 0),
        (range(i64::MIN / 2, i64::MAX / 2), 0),
    ] {
        let found = ok(versioned.by_version().state(&versioned.table, versioned.column, &range).await);
        assert_eq!(found.unversioned, without, "rows without a version within {range:?}");
        assert_eq!(found.state, versioned.expected(&range), "{range:?}");
    }
    Outcome::Passed
}

/// Counting back from the end of a range.
pub async fn the_nth_last_is_found(harness: &dyn SourceHarness) -> Outcome {
    let Some(versioned) = Versioned::new(harness, Standard::Items).await else { return NOT_OFFERED };
    for range in [VersionRange::ALL, range(-1, 2), range(50, 60)] {
        let mut expected: Vec<i64> = versioned.versions.values().flatten().copied().collect();
        expected.retain(|version| range.contains(Version(*version)));
        expected.sort_unstable_by(|a, b| b.cmp(a));
        for n in [0, 1, 10, expected.len().saturating_sub(1), expected.len(), 1000] {
            let (table, column) = (&versioned.table, versioned.column);
            let found = ok(versioned.by_version().nth_last(table, column, &range, n as u64).await);
            assert_eq!(found, expected.get(n).copied().map(Version), "{n} rows after it within {range:?}");
        }
    }
    Outcome::Passed
}

/// What is no version is an error, not a number.
pub async fn a_column_of_other_values_is_refused(harness: &dyn SourceHarness) -> Outcome {
    let Some(versioned) = Versioned::new(harness, Standard::Items).await else { return NOT_OFFERED };
    let names = versioned.table.columns.iter().position(|column| column.name == "name");
    let (table, column) = (&versioned.table, names.unwrap_or_default());
    let bound = versioned.by_version().bound(table, column).await;
    let state = versioned.by_version().state(table, column, &VersionRange::ALL).await;
    assert!(bound.is_err() || state.is_err(), "names were taken for versions: {bound:?}, {state:?}");
    Outcome::Passed
}
