//! Which rows a chunk holds, as the ledger remembers it: JSON that says by itself how to read it.

use serde::{Deserialize, Serialize};
use syncline_core::{Carriage, Error, Result, RowKey, TableId, TableSchema};

use super::order::{Order, OrderedKey};
use crate::postgres::source::hex::{from_hex, to_hex};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Versioned {
    v: u32,
    #[serde(flatten)]
    range: Range,
}

/// Which rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub(super) enum Range {
    /// Those whose first key column is in the half-open range; read in a snapshot of its own.
    Keys { order: Order, from: Option<String>, to: Option<String> },
    /// All of a table that is one chunk; read in a snapshot of its own.
    Whole,
    /// Those in blocks of one leaf; read in the snapshot that all chunks of the plan share.
    Blocks {
        /// Schema and name of the table or partition that holds the blocks.
        leaf: (String, String),
        /// Its file: a table that was rewritten since has other blocks.
        node: u32,
        from: Option<u64>,
        to: Option<u64>,
        /// Number of chunks of the plan, so that a complete ledger is known without the plan.
        of: u32,
    },
    /// All of a leaf that joins the table, by its name of [`crate::postgres::source::parts`]; read in a snapshot of its own.
    Leaf { part: String },
    /// Exactly these (a re-read), as hexadecimal row keys.
    Rows {
        /// How the key columns were carried, a letter each: a key in another carriage has other bytes.
        form: String,
        keys: Vec<String>,
    },
}

impl Range {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let unreadable = || {
            Error::conflict("a chunk range of the ledger cannot be read")
                .with_remedy("start the table's snapshot anew: drop the pipeline and run it again")
        };
        let versioned: Versioned =
            serde_json::from_str(text).map_err(|error| unreadable().with_source(error))?;
        if versioned.v == VERSION { Ok(versioned.range) } else { Err(unreadable()) }
    }

    pub(super) fn to_text(&self) -> Result<String> {
        serde_json::to_string(&Versioned { v: VERSION, range: self.clone() })
            .map_err(|error| Error::bug("a chunk range cannot be written").with_source(error))
    }

    pub(super) fn of_rows(table: &TableSchema, keys: &[RowKey]) -> Self {
        Self::Rows { form: key_form(table), keys: keys.iter().map(|key| to_hex(&key.0)).collect() }
    }
}

/// How the key columns are carried, a letter each.
pub(super) fn key_form(table: &TableSchema) -> String {
    let letter = |&column: &usize| match table.columns[column].carriage {
        Carriage::Native => 'n',
        Carriage::NativeText => 't',
        Carriage::Typed => 'a',
    };
    table.row_key.iter().map(letter).collect()
}

/// Row keys from their hexadecimal text.
pub(super) fn row_keys(keys: &[String]) -> Result<Vec<RowKey>> {
    let read = |key: &String| from_hex(key).map(|bytes| RowKey(bytes.into_boxed_slice()));
    let keys: Option<_> = keys.iter().map(read).collect();
    keys.ok_or_else(|| Error::conflict("a row key of the ledger is damaged"))
}

pub(super) fn leaf_id(leaf: &(String, String)) -> TableId {
    TableId::new(leaf.0.as_str(), leaf.1.as_str())
}

/// A bound in its order; absent bounds are beyond every key.
pub(super) fn bound<'a>(order: Order, text: Option<&'a String>) -> Result<Option<OrderedKey<'a>>> {
    text.map(|text| {
        order
            .of_text(text.as_bytes())
            .ok_or_else(|| Error::conflict("a bound of a chunk range of the ledger cannot be read"))
    })
    .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_survive_their_text() {
        let ranges = [
            Range::Keys { order: Order::Int, from: None, to: Some("12".into()) },
            Range::Whole,
            Range::Leaf { part: "16384:745/16390:751".into() },
            Range::Blocks { leaf: ("a".into(), "b\"".into()), node: 7, from: Some(0), to: None, of: 3 },
            Range::Rows { form: "nt".into(), keys: vec!["00ff".into()] },
        ];
        for range in ranges {
            assert_eq!(Range::parse(&range.to_text().unwrap()).unwrap(), range);
        }
        assert!(Range::parse("{\"v\":2,\"mode\":\"whole\"}").is_err());
        assert!(Range::parse("{\"v\":1,\"mode\":\"other\"}").is_err());
    }
}
