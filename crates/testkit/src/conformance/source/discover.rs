//! Cases: what a source says it has.

use syncline_core::{ErrorKind, Severity, TablePattern};

use crate::conformance::report::Outcome;
use crate::conformance::tables::Standard;

use super::SourceHarness;
use super::support::{offered, ok, select};

/// Selected tables come in name order with their columns and keys; excluded ones do not come.
pub async fn the_selection_is_kept(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let mut selection = select(harness, fixture.as_ref(), &offered(harness));
    selection.exclude = vec![ok(TablePattern::new("*.codes"))];
    selection.exclude_columns = vec![(ok(TablePattern::new("*.items")), "big".to_owned())];
    let tables = ok(fixture.source().discover(&selection).await);
    let mut expected: Vec<&str> =
        offered(harness).into_iter().filter(|&table| table != Standard::Codes).map(Standard::name).collect();
    expected.sort_unstable();
    let names: Vec<&str> = tables.iter().map(|table| table.id.name.as_str()).collect();
    assert_eq!(names, expected, "the selected tables, in name order");
    for table in &tables {
        assert_eq!(table.id.schema, fixture.schema());
        let standard = super::super::replica::standard(table);
        let columns: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
        let all = standard.columns().iter().map(|(name, _)| *name);
        assert_eq!(columns, all.filter(|name| *name != "big").collect::<Vec<_>>());
        assert_eq!(table.row_key, (0..standard.key_columns()).collect::<Vec<_>>());
    }
    Outcome::Passed
}

/// A pattern or an excluded column that fits nothing is a mistake of the user's, not an empty selection.
pub async fn what_matches_nothing_is_refused(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let source = fixture.source();
    let mut selection = select(harness, fixture.as_ref(), &[Standard::Items]);
    selection.include.push(ok(TablePattern::new("*.no_such_table")));
    let error = source.discover(&selection).await.err();
    assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Configuration), "an unknown table");
    let mut selection = select(harness, fixture.as_ref(), &[Standard::Items]);
    selection.exclude_columns = vec![(ok(TablePattern::new("*.items")), "no_such_column".to_owned())];
    let error = source.discover(&selection).await.err();
    assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Configuration), "an unknown column");
    Outcome::Passed
}

/// `check` finds no error where everything is in order, and changes nothing.
pub async fn a_healthy_database_has_no_error(harness: &dyn SourceHarness) -> Outcome {
    let fixture = harness.fixture().await;
    let keyed: Vec<Standard> = offered(harness).into_iter().filter(|table| table.key_columns() > 0).collect();
    let selection = select(harness, fixture.as_ref(), &keyed);
    let findings = ok(fixture.source().check(&selection, true).await);
    let errors: Vec<_> = findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(fixture.leftovers().await, Vec::<String>::new(), "a check leaves nothing");
    Outcome::Passed
}
