//! Which columns of two tables are compared with each other, and as what.

use std::sync::Arc;

use serde::Serialize;
pub use syncline_core::Class;
use syncline_core::{Carriage, Column, DataType, Error, Family, Result, TableSchema};

/// A column that is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComparedColumn {
    /// Its name at the source.
    pub name: String,
    /// As what.
    pub class: Class,
}

/// Two tables brought to the same columns in the same order, those of the key first.
#[derive(Debug, Clone)]
pub struct Pairing {
    /// The source's table, cut to these columns.
    pub left: Arc<TableSchema>,
    /// The destination's.
    pub right: Arc<TableSchema>,
    /// What the columns are compared as, in their order.
    pub columns: Vec<ComparedColumn>,
    /// How many of them are the key; 0: whole rows are counted.
    pub key_columns: usize,
    /// Columns of the destination that the source does not have: they are not compared.
    pub only_right: Vec<String>,
}

/// Pairs two tables of the same family by their native values. `None` if some column has no common native form: compare
/// typed values then.
#[must_use]
pub(super) fn native(left: &TableSchema, right: &TableSchema) -> Option<Pairing> {
    pair(left, right, |left, right| same_native(left, right).then_some(Class::Native)).ok()
}

/// Pairs two tables by their typed values.
///
/// # Errors
/// Configuration, naming the column, if the destination lacks one or two types cannot be compared.
pub(super) fn typed(left: &TableSchema, right: &TableSchema) -> Result<Pairing> {
    pair(left, right, |left, right| common(&left.data_type, &right.data_type))
}

/// Whether two families' native values can be the same bytes at all.
#[must_use]
pub(super) fn may_be_native(left: Family, right: Family) -> bool {
    left == right
}

fn same_native(left: &Column, right: &Column) -> bool {
    match (left.carriage, right.carriage) {
        (Carriage::Native, Carriage::Native) => {
            left.native_type == right.native_type || same_values(&left.data_type, &right.data_type)
        }
        (Carriage::NativeText, Carriage::NativeText) => left.native_type == right.native_type,
        _ => false,
    }
}

/// Types whose values have one native form, whatever bounds are declared. Decimals have not: 1.5 in a column of four places is
/// stored as 1.5000.
fn same_values(left: &DataType, right: &DataType) -> bool {
    left == right && !matches!(left, DataType::Decimal { .. } | DataType::Numeric)
}

/// What two types are compared as: the one of them that says more.
fn common(left: &DataType, right: &DataType) -> Option<Class> {
    let (left, right) = (Class::of(left), Class::of(right));
    let either = |class| left == class || right == class;
    let both = |classes: &[Class]| classes.contains(&left) && classes.contains(&right);
    Some(match () {
        () if left == right => left,
        () if both(&[Class::Integer, Class::Decimal]) => Class::Decimal,
        () if both(&[Class::Integer, Class::Decimal, Class::Float]) => Class::Float,
        () if both(&[Class::Uuid, Class::Bytes]) => Class::Uuid,
        // Text stands for anything that has a text form.
        () if either(Class::Text) && !either(Class::Bytes) => {
            if left == Class::Text {
                right
            } else {
                left
            }
        }
        () => return None,
    })
}

fn pair(
    left: &TableSchema,
    right: &TableSchema,
    class: impl Fn(&Column, &Column) -> Option<Class>,
) -> Result<Pairing> {
    let key = left.row_key.iter().copied();
    let others = (0..left.columns.len()).filter(|column| !left.row_key.contains(column));
    let order: Vec<usize> = key.chain(others).collect();
    let mut columns = Vec::with_capacity(order.len());
    let mut order_right = Vec::with_capacity(order.len());
    for &place in &order {
        let column = &left.columns[place];
        let place = place_of(&column.name, right).ok_or_else(|| missing(column, left, right))?;
        let class = class(column, &right.columns[place]);
        let class = class.ok_or_else(|| incomparable(column, &right.columns[place], left))?;
        columns.push(ComparedColumn { name: column.name.clone(), class });
        order_right.push(place);
    }
    let only_right = (0..right.columns.len()).filter(|place| !order_right.contains(place));
    Ok(Pairing {
        only_right: only_right.map(|place| right.columns[place].name.clone()).collect(),
        key_columns: left.row_key.len(),
        left: Arc::new(cut(left, &order, left.row_key.len())),
        right: Arc::new(cut(right, &order_right, left.row_key.len())),
        columns,
    })
}

/// By its name; failing that, by its name in whatever case, for systems that fold names differently.
fn place_of(name: &str, table: &TableSchema) -> Option<usize> {
    let exact = table.columns.iter().position(|column| column.name == name);
    exact.or_else(|| table.columns.iter().position(|column| column.name.eq_ignore_ascii_case(name)))
}

/// The table with these columns in this order, the first ones its key.
fn cut(table: &TableSchema, order: &[usize], key_columns: usize) -> TableSchema {
    TableSchema {
        columns: order.iter().map(|&place| table.columns[place].clone()).collect(),
        row_key: (0..key_columns).collect(),
        ..table.clone()
    }
}

fn missing(column: &Column, left: &TableSchema, right: &TableSchema) -> Error {
    Error::configuration(format!("{} at the destination has no column {}", right.id, column.name))
        .with_table(&left.id)
        .with_remedy(format!(
            "add the column, or leave it out with --exclude-column '{}.{}'",
            left.id, column.name
        ))
}

fn incomparable(left: &Column, right: &Column, table: &TableSchema) -> Error {
    let message = format!(
        "column {} cannot be compared: {} at the source, {} at the destination",
        left.name, left.native_type, right.native_type
    );
    Error::configuration(message)
        .with_table(&table.id)
        .with_remedy(format!("leave it out with --exclude-column '{}.{}'", table.id, left.name))
}

#[cfg(test)]
mod tests {
    use syncline_core::TableId;

    use super::*;

    fn table(columns: &[(&str, DataType, Carriage)], row_key: &[usize]) -> TableSchema {
        let column = |(name, data_type, carriage): &(&str, DataType, Carriage)| Column {
            name: (*name).to_owned(),
            data_type: data_type.clone(),
            nullable: true,
            native_type: format!("{data_type:?}"),
            carriage: *carriage,
        };
        TableSchema {
            id: TableId::new("s", "t"),
            columns: columns.iter().map(column).collect(),
            row_key: row_key.to_vec(),
            version: 1,
            rows_estimated: None,
            native: None,
        }
    }

    fn names(table: &TableSchema) -> Vec<&str> {
        table.columns.iter().map(|column| column.name.as_str()).collect()
    }

    #[test]
    fn columns_are_brought_to_one_order_with_the_key_first() {
        use Carriage::Typed;
        let left = table(&[("a", DataType::Text, Typed), ("id", DataType::Int(32), Typed)], &[1]);
        let right = table(
            &[
                ("ID", DataType::Int(64), Typed),
                ("more", DataType::Text, Typed),
                ("a", DataType::Json, Typed),
            ],
            &[],
        );
        let pairing = typed(&left, &right).unwrap();
        assert_eq!(names(&pairing.left), ["id", "a"]);
        assert_eq!(names(&pairing.right), ["ID", "a"]);
        assert_eq!((pairing.key_columns, &pairing.right.row_key), (1, &vec![0]));
        assert_eq!(
            pairing.columns.iter().map(|c| c.class).collect::<Vec<_>>(),
            [Class::Integer, Class::Text]
        );
        assert_eq!(pairing.only_right, ["more"]);
    }

    #[test]
    fn native_values_are_compared_only_where_both_sides_have_the_same_form() {
        use Carriage::{Native, NativeText};
        let decimal =
            |precision, carriage| table(&[("n", DataType::Decimal { precision, scale: 2 }, carriage)], &[]);
        let of_type = |name: &str| {
            let mut table = decimal(10, Native);
            table.columns[0].native_type = name.to_owned();
            table
        };
        assert!(native(&of_type("numeric(10,2)"), &of_type("numeric(10,2)")).is_some());
        assert!(
            native(&of_type("numeric(10,2)"), &of_type("numeric(12,4)")).is_none(),
            "1.5 is stored as 1.5000"
        );
        assert!(native(&decimal(10, Native), &decimal(10, NativeText)).is_none());
        let int = |bits| table(&[("n", DataType::Int(bits), Native)], &[]);
        assert!(native(&int(32), &int(64)).is_none());
    }

    #[test]
    fn what_cannot_be_compared_is_refused_with_the_remedy() {
        let one = |data_type| table(&[("c", data_type, Carriage::Typed)], &[]);
        let error = typed(&one(DataType::Date), &one(DataType::Int(64))).unwrap_err();
        assert!(error.remedy().unwrap().contains("--exclude-column 's.t.c'"));
        let error = typed(&one(DataType::Date), &table(&[], &[])).unwrap_err();
        assert!(error.to_string().contains("no column c"));
    }

    #[test]
    fn the_type_that_says_more_decides() {
        let class = |left, right| common(&left, &right).unwrap();
        assert_eq!(class(DataType::Bool, DataType::Int(64)), Class::Integer);
        assert_eq!(class(DataType::TimestampTz, DataType::Native("TIMESTAMP".into())), Class::Instant);
        assert_eq!(class(DataType::Text, DataType::Uuid), Class::Uuid);
        assert_eq!(class(DataType::Bytes, DataType::Uuid), Class::Uuid);
        assert_eq!(class(DataType::Int(16), DataType::Numeric), Class::Decimal);
        assert_eq!(class(DataType::Numeric, DataType::Float64), Class::Float);
    }
}
