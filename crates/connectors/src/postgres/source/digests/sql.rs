//! Statements that hash rows, and a row's canonical encoding as an expression.
//!
//! `record_send(ROW(value))` is a count of columns, a type, and then the value as COPY's binary form has it: its length, or −1
//! for NULL, and its bytes. From the ninth byte on it is the canonical encoding of one value, whatever its type.
//!
//! A subquery with `OFFSET 0` is computed once and not pulled up into what surrounds it.

use syncline_core::digests::{DigestOf, Places, ROW_HASH_BYTES, RepeatedIn, WantedRows};
use syncline_core::{Carriage, Class, Column, DataType, Error, Result, TableSchema};

use crate::postgres::quote;
use crate::postgres::source::hex::to_hex;
use crate::postgres::source::snapshot::keys;

/// Names beside those of the user's columns; no column has them by accident.
const PLACE: &str = "\"syncline: place\"";
const KEY_HASH: &str = "\"syncline: key hash\"";
const ROW_HASH: &str = "\"syncline: row hash\"";

/// What is asked about one table.
pub(super) struct Statements {
    relation: String,
    /// The table's columns by name.
    columns: String,
    /// Those columns as they are carried.
    carried: String,
    /// Each column, encoded.
    encoded: Vec<String>,
    nullable: Vec<String>,
    key_columns: usize,
}

impl Statements {
    /// Statements over what stands in a FROM clause.
    ///
    /// # Errors
    /// Configuration, naming the column, if one cannot be written as its class.
    pub(super) fn new(relation: &str, of: &DigestOf) -> Result<Self> {
        let table = &of.table;
        let encoded = table.columns.iter().zip(&of.classes);
        let encoded = encoded.map(|(column, class)| encoded_value(table, column, *class));
        Ok(Self {
            relation: relation.to_owned(),
            columns: quote::idents(table.columns.iter().map(|column| column.name.as_str())),
            carried: keys::values(table),
            encoded: encoded.collect::<Result<_>>()?,
            nullable: table.columns.iter().map(|column| quote::ident(&column.name)).collect(),
            key_columns: of.key_columns,
        })
    }

    /// One value: for each place its number (4 bytes), its count and its two sums (8 bytes each).
    pub(super) fn sums(&self, of: &Places, bits: u8) -> String {
        let place = prefix(bits);
        let sum = |from: usize| {
            let number = unsigned(&format!("substring({ROW_HASH} from {from} for 6)"), 48);
            format!("(sum({number}) % 9223372036854775808)::int8")
        };
        // A place of 32 bits is a number of 33 with its sign.
        format!(
            "SELECT string_agg(substring(int8send(place) from 5) || int8send(counted) || int8send(first) \
             || int8send(second), ''::bytea) FROM (\
             SELECT {place} AS place, count(*) AS counted, {} AS first, {} AS second FROM ({}) AS hashed \
             GROUP BY 1) AS summed",
            sum(1),
            sum(7),
            self.hashed(of)
        )
    }

    /// A value for each row: its hash, then its encoded key; without a key how often it is there (8 bytes).
    pub(super) fn hashes(&self, of: &Places) -> String {
        let rows = self.hashed(of);
        if self.key_columns == 0 {
            return format!(
                "SELECT {ROW_HASH} || int8send(count(*)) FROM ({rows}) AS hashed GROUP BY {ROW_HASH}"
            );
        }
        format!("SELECT {ROW_HASH} || ({}) FROM ({rows}) AS hashed", self.key())
    }

    /// The wanted rows' columns, as they are carried.
    pub(super) fn rows(&self, wanted: &WantedRows) -> String {
        let any = |hash: String, of: Vec<String>| {
            format!("{hash} = ANY({}::bytea[])", quote::literal(&format!("{{{}}}", of.join(","))))
        };
        let literal = |bytes: &[u8]| format!("\"\\\\x{}\"", to_hex(bytes));
        let keys = wanted.keys.iter().map(|hash| literal(hash)).collect::<Vec<_>>();
        let rows = wanted.rows.iter().map(|hash| literal(hash)).collect::<Vec<_>>();
        let mut conditions = Vec::new();
        if !keys.is_empty() {
            conditions.push(any(format!("substring({KEY_HASH} from 1 for 8)"), keys));
        }
        if !rows.is_empty() || conditions.is_empty() {
            conditions.push(any(ROW_HASH.to_owned(), rows));
        }
        format!(
            "SELECT {} FROM ({}) AS hashed WHERE {}",
            self.carried,
            self.hashed(&Places::ALL),
            conditions.join(" OR ")
        )
    }

    /// Values that more than one row has: how many such values there are, a value, its rows.
    pub(super) fn repeated(&self, of: &RepeatedIn) -> Result<String> {
        let pick = |from: &[String]| {
            let picked = of.columns.iter().map(|&place| from.get(place).cloned());
            let picked: Option<Vec<_>> = picked.collect();
            picked.ok_or_else(|| Error::bug("a column that is not there is to be unique"))
        };
        let (values, columns) = (pick(&self.encoded)?, pick(&self.nullable)?);
        let whole = if of.nulls_are_equal {
            String::new()
        } else {
            format!(" WHERE num_nulls({}) = 0", columns.join(", "))
        };
        Ok(format!(
            "WITH repeated AS MATERIALIZED (SELECT value, count(*) AS counted FROM (\
             SELECT {} AS value FROM {}{whole} OFFSET 0) AS encoded GROUP BY value HAVING count(*) > 1) \
             SELECT (SELECT count(*) FROM repeated), value, counted FROM repeated ORDER BY value LIMIT {}",
            joined(&values),
            self.relation,
            of.told_max
        ))
    }

    /// The encoded key.
    fn key(&self) -> String {
        joined(&self.encoded[..self.key_columns])
    }

    /// The rows of these places with their columns and hashes. The row is hashed after its place is known to be wanted.
    fn hashed(&self, of: &Places) -> String {
        let wanted = if of.bits == 0 {
            String::new()
        } else {
            let prefixes: Vec<String> = of.prefixes.iter().map(ToString::to_string).collect();
            let prefixes = quote::literal(&format!("{{{}}}", prefixes.join(",")));
            format!(" WHERE {} = ANY({prefixes}::int8[])", prefix(of.bits))
        };
        let (columns, relation) = (&self.columns, &self.relation);
        let place = unsigned(&format!("substring({KEY_HASH} from 1 for 4)"), 32);
        let row =
            format!("substring(sha256($1::bytea || {}) from 1 for {ROW_HASH_BYTES})", joined(&self.encoded));
        // Without a key the row's hash comes first.
        let placed = if self.key_columns == 0 {
            format!(
                "SELECT {columns}, {ROW_HASH}, sha256($2::bytea || {ROW_HASH}) AS {KEY_HASH} \
                 FROM (SELECT {columns}, {row} AS {ROW_HASH} FROM {relation} OFFSET 0) AS rows OFFSET 0"
            )
        } else {
            format!(
                "SELECT {columns}, sha256($2::bytea || {}) AS {KEY_HASH} FROM {relation} OFFSET 0",
                self.key()
            )
        };
        let row = if self.key_columns == 0 { ROW_HASH.to_owned() } else { format!("{row} AS {ROW_HASH}") };
        format!(
            "SELECT {columns}, {PLACE}, {KEY_HASH}, {row} FROM (SELECT {columns}, {KEY_HASH}{}, {place} AS {PLACE} \
             FROM ({placed}) AS placed OFFSET 0) AS keyed{wanted} OFFSET 0",
            if self.key_columns == 0 { format!(", {ROW_HASH}") } else { String::new() }
        )
    }
}

/// The first bits of a place of 32.
fn prefix(bits: u8) -> String {
    format!("({PLACE} >> {})", 32 - i32::from(bits.min(32)))
}

/// Bytes as a number of so many bits, fewer than 64.
fn unsigned(bytes: &str, bits: u8) -> String {
    format!("('x' || encode({bytes}, 'hex'))::bit({bits})::int8")
}

/// Byte strings one after the other; halved, so that no long one is copied once for each short one.
fn joined(parts: &[String]) -> String {
    match parts {
        [] => "''::bytea".to_owned(),
        [one] => one.clone(),
        _ => {
            let (left, right) = parts.split_at(parts.len() / 2);
            format!("({} || {})", joined(left), joined(right))
        }
    }
}

fn encoded_value(table: &TableSchema, column: &Column, class: Class) -> Result<String> {
    let value = value(column, class).ok_or_else(|| refused(table, column, class))?;
    Ok(format!("substring(record_send(ROW({value})) from 9)"))
}

/// The value whose binary form is that of the class. `None` if the server has no such form of it.
fn value(column: &Column, class: Class) -> Option<String> {
    let name = quote::ident(&column.name);
    let (is_whole, is_bool) =
        (matches!(column.data_type, DataType::Int(_)), column.data_type == DataType::Bool);
    let own = Class::of(&column.data_type);
    Some(match class {
        Class::Native if column.carriage != Carriage::Typed => keys::value(column),
        Class::Integer if is_bool => format!("{name}::int4::int8"),
        Class::Integer if is_whole => format!("{name}::int8"),
        Class::Decimal if is_whole || own == Class::Decimal => {
            // In any other collation the first letter of `Infinity` might become one without a dot.
            format!("lower(trim_scale({name}::numeric)::text COLLATE \"C\")")
        }
        Class::Float if is_whole || matches!(own, Class::Float | Class::Decimal) => {
            // One NaN; and −0 + 0 is 0.
            let float = format!("{name}::float8");
            format!("CASE WHEN {float} = 'NaN'::float8 THEN 'NaN'::float8 ELSE {float} + 0::float8 END")
        }
        Class::Text if own == Class::Text => keys::value(column),
        Class::Bytes if own == Class::Bytes => name,
        Class::Uuid if own == Class::Uuid => name,
        Class::Date if own == Class::Date => format!("({name} - '1970-01-01'::date)::int8"),
        Class::Time | Class::Timestamp | Class::Instant if own == class => {
            format!("(extract(epoch FROM {name}) * 1000000)::int8")
        }
        _ => return None,
    })
}

fn refused(table: &TableSchema, column: &Column, class: Class) -> Error {
    Error::configuration(format!(
        "column {} of {} is compared as {class}, in which form a database cannot write its values: they are {}",
        column.name, table.id, column.native_type
    ))
    .with_table(&table.id)
    .with_remedy(format!(
        "compare with --digest default, or leave it out with --exclude-column '{}.{}'",
        table.id, column.name
    ))
}
