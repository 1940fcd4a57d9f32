//! The ability to sum up rows where they are: for sides that are both far away, and where no agent can be placed.
//!
//! A database hashes its rows in the canonical encoding ([`crate::encoding`]), each value as what its column is compared as
//! ([`Class`]), and tells sums of the hashes by *place*: the first bits of the key's hash. So two systems agree on a sum only if
//! they write the same bytes; one that cannot write a column's class refuses it.
//!
//! | hash | what it is |
//! |---|---|
//! | of a row | the first 12 bytes of SHA-256 over the row's salt and the encoded row |
//! | of a key | the first 8 bytes of SHA-256 over the key's salt and the encoded key columns; of a table without a key over the key's salt and the row's hash |
//!
//! The salts are drawn for each comparison and known to its sides only: nobody can prepare rows that look alike.

use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;

use crate::class::Class;
use crate::error::Result;
use crate::schema::TableSchema;

/// Bytes of a row's hash.
pub const ROW_HASH_BYTES: usize = 12;
/// Bytes of a key's hash.
pub const KEY_HASH_BYTES: usize = 8;
/// The longest prefix of a key's hash that is a place, in bits.
pub const PLACE_BITS_MAX: u8 = 32;

/// What the hashes of one comparison begin with. Secret, so without `Debug`.
#[derive(Clone, Copy)]
pub struct DigestSalt {
    /// Of rows.
    pub row: [u8; 16],
    /// Of keys.
    pub key: [u8; 16],
}

/// How a table is to be hashed.
#[derive(Clone)]
pub struct DigestOf {
    /// The table, cut to the compared columns, those of the key first.
    pub table: Arc<TableSchema>,
    /// What its columns are compared as.
    pub classes: Vec<Class>,
    /// How many of them are the key; 0: equal rows are counted.
    pub key_columns: usize,
    /// The comparison's own.
    pub salt: DigestSalt,
}

/// Rows whose key's hash begins with one of these prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Bits of a prefix, at most [`PLACE_BITS_MAX`]; 0: all rows.
    pub bits: u8,
    /// The prefixes, as numbers of so many bits.
    pub prefixes: Vec<u64>,
}

impl Places {
    /// All rows.
    pub const ALL: Self = Self { bits: 0, prefixes: Vec::new() };
}

/// The rows of one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowSum {
    /// The prefix.
    pub place: u64,
    /// How many.
    pub rows: u64,
    /// The sums of the first and of the second six bytes of the row hashes, as big-endian numbers, modulo 2⁶³.
    pub sums: [u64; 2],
}

/// A row, by its hash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HashedRow {
    /// Its encoded key; empty if the table has none.
    pub key: Box<[u8]>,
    /// Its hash.
    pub row: [u8; ROW_HASH_BYTES],
    /// How often it is there.
    pub copies: u64,
}

/// Rows that are wanted whole.
#[derive(Debug, Clone, Default)]
pub struct WantedRows {
    /// Hashes of keys.
    pub keys: Vec<[u8; KEY_HASH_BYTES]>,
    /// Hashes of rows.
    pub rows: Vec<[u8; ROW_HASH_BYTES]>,
}

/// Columns that are looked at for values which more than one row has.
#[derive(Debug, Clone)]
pub struct RepeatedIn {
    /// Their places among the table's.
    pub columns: Vec<usize>,
    /// Whether two NULLs are one value; else a row with a NULL among them repeats nothing.
    pub nulls_are_equal: bool,
    /// How many of the values are told.
    pub told_max: usize,
}

/// Values that more than one row has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepeatedIs {
    /// How many values.
    pub values: u64,
    /// Some of them, encoded, each with how many rows have it.
    pub some: Vec<(Box<[u8]>, u64)>,
}

/// The ability to sum up rows where they are.
#[async_trait]
pub trait Digests: Send + Sync {
    /// Begins to look at a table, in one snapshot for all that is asked of it.
    ///
    /// # Errors
    /// Configuration, naming the column, if its values cannot be written there as what they are compared as; as any read.
    async fn begin(&self, of: &DigestOf) -> Result<Box<dyn TableDigests>>;
}

/// A table of which sums are told. Each method reads the table once; nothing of it moves but what is told.
#[async_trait]
pub trait TableDigests: Send {
    /// The sums over these rows, by places of so many bits, more than [`Places::bits`]; in no order, empty places left out.
    ///
    /// # Errors
    /// As any read.
    async fn sums(&mut self, of: &Places, bits: u8) -> Result<Vec<RowSum>>;

    /// The hashes of these rows, in no order.
    ///
    /// # Errors
    /// Configuration if they take more than so many bytes; as any read.
    async fn hashes(&mut self, of: &Places, bytes_max: usize) -> Result<Vec<HashedRow>>;

    /// Rows by their hashes, as they are carried.
    ///
    /// # Errors
    /// Configuration if they take more than so many bytes; as any read.
    async fn rows(&mut self, wanted: &WantedRows, bytes_max: usize) -> Result<RecordBatch>;

    /// Values that more than one row has.
    ///
    /// # Errors
    /// As any read.
    async fn repeated(&mut self, of: &RepeatedIn) -> Result<RepeatedIs>;

    /// Bytes so far: of what was asked, and of what came back.
    fn bytes(&self) -> (u64, u64);

    /// Gives up the snapshot.
    ///
    /// # Errors
    /// As any connection.
    async fn end(self: Box<Self>) -> Result<()>;
}
