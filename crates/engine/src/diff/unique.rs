//! Whether columns that are declared unique are so, over all rows that the source has: the state that is desired.
//!
//! Two scans with little memory. The first marks the hash of each row's values in a bitmap, and in a second one what was
//! marked before; the second scan counts only the rows that are marked there, few of which merely share a bit. If they are
//! still too many to be counted at once, their hashes are counted in several parts, a scan each. A third scan, made only if
//! there is a violation, reads some of the values.
//!
//! A row with NULL in one of the columns violates nothing, as everywhere in SQL, unless the columns say otherwise.
//!
//! Which columns are looked at: those that somebody names, and before a repair those that the destination enforces by an index
//! over columns ([`Comparison::enforced`]) and the source does not, by a valid one and by the same rule. An index over an
//! expression, over some rows, of one partition, or over values that are equal without having equal bytes is not looked at,
//! which is said.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use syncline_core::digests::RepeatedIn;
use syncline_core::unique::{EnforcedIndex, UniqueColumns};
use syncline_core::{Class, Column, Error, Result, encoding};

use super::comparison::Comparison;
use super::side::Side;
use super::sketches::{HashKey, RowHash};

/// Bits of a bitmap: 16 MiB each.
const BITS: u64 = 1 << 27;
/// Hashes counted at once, of about 48 bytes each.
const COUNTED_MAX: usize = 1 << 20;
/// Violations that are told with their values.
const TOLD_MAX: usize = 20;

/// Columns that are not unique.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotUnique {
    /// The columns.
    pub columns: Vec<String>,
    /// How many values more than one row has.
    pub values: u64,
    /// Some of them.
    pub some: Vec<RepeatedValue>,
}

/// A value that more than one row has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepeatedValue {
    /// The columns' values.
    pub value: Vec<String>,
    /// How many rows have it.
    pub rows: u64,
}

/// A NULL among values that are repeated.
pub(super) fn null() -> String {
    "NULL".to_owned()
}

/// What a destination enforces beside what the source does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Enforced {
    /// Columns that are to be looked at: nothing else says that the source's rows are apart by them.
    pub to_check: Vec<UniqueColumns>,
    /// What cannot be looked at: names of indexes, and columns that are not compared.
    pub not_checked: Vec<String>,
}

/// Where the unique columns are, and how their values are hashed.
#[derive(Clone)]
struct Values {
    places: Arc<[usize]>,
    nulls_are_equal: bool,
    hash_key: HashKey,
}

impl Values {
    /// The values of a row, encoded; `None` if one of them is NULL and so like no other.
    fn of(&self, row: &[u8]) -> Result<Option<Vec<u8>>> {
        let all = encoding::values(row)?;
        let mut values = Vec::new();
        for &place in self.places.iter() {
            let value = all.get(place).copied().ok_or_else(|| Error::bug("a row without its columns"))?;
            if value.is_none() && !self.nulls_are_equal {
                return Ok(None);
            }
            encoding::append_value(value, &mut values)?;
        }
        Ok(Some(values))
    }

    fn hash(&self, row: &[u8]) -> Result<Option<RowHash>> {
        Ok(self.of(row)?.map(|values| self.hash_key.row(&values)))
    }
}

/// A bitmap that several readers write.
struct Bitmap(Vec<AtomicU64>);

impl Bitmap {
    fn new() -> Self {
        Self((0..BITS / 64).map(|_| AtomicU64::new(0)).collect())
    }

    #[expect(clippy::cast_possible_truncation, reason = "a place below the number of bits")]
    fn place(hash: RowHash) -> (usize, u64) {
        let bit = (hash.number() % u128::from(BITS)) as u64;
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    /// Sets a bit, and says whether it was set.
    fn set(&self, hash: RowHash) -> bool {
        let (word, bit) = Self::place(hash);
        self.0[word].fetch_or(bit, Ordering::Relaxed) & bit != 0
    }

    fn has(&self, hash: RowHash) -> bool {
        let (word, bit) = Self::place(hash);
        self.0[word].load(Ordering::Relaxed) & bit != 0
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| word.load(Ordering::Relaxed) == 0)
    }
}

impl Comparison {
    /// Whether the source has more than one row with the same values in these columns.
    ///
    /// # Errors
    /// Configuration if a column is not compared; as any read.
    pub async fn not_unique(&self, of: &UniqueColumns) -> Result<Option<NotUnique>> {
        self.left.not_unique(of, &self.hash_key).await
    }

    /// What the destination enforces, as columns of the source.
    ///
    /// # Errors
    /// As any read.
    pub async fn enforced(&self) -> Result<Enforced> {
        let there = self.right.source.unique_indexes(&self.right.table.id).await?;
        let here = self.left.source.unique_indexes(&self.left.table.id).await?;
        let mut enforced = Enforced { not_checked: there.others, ..Enforced::default() };
        for index in there.plain {
            let columns: Option<Vec<String>> =
                index.of.columns.iter().map(|name| self.compared_as(name)).collect();
            let Some(columns) = columns else {
                enforced.not_checked.push(format!("({})", index.of.columns.join(", ")));
                continue;
            };
            let wanted = EnforcedIndex { of: UniqueColumns { columns, ..index.of }, ..index };
            if here.plain.iter().any(|known| self.implies(known, &wanted)) {
                continue;
            }
            if wanted.by_bytes && wanted.of.columns.iter().all(|name| self.is_told_apart(name)) {
                enforced.to_check.push(wanted.of);
            } else {
                enforced.not_checked.push(wanted.name);
            }
        }
        enforced.to_check.sort_unstable();
        enforced.to_check.dedup();
        Ok(enforced)
    }

    /// The compared column that is of this name at the destination.
    fn compared_as(&self, name: &str) -> Option<String> {
        let place = self.right.table.columns.iter().position(|column| column.name == name)?;
        self.pairing.columns.get(place).map(|column| column.name.clone())
    }

    /// Whether rows that the source keeps apart so are apart by the other columns, too. Its index must have looked at all of them.
    fn implies(&self, known: &EnforcedIndex, wanted: &EnforcedIndex) -> bool {
        let is_there = |name: &String| wanted.of.columns.contains(name);
        let is_never_null =
            |name: &String| self.left.table.columns.iter().any(|c| c.name == *name && !c.nullable);
        let nulls_fit = known.of.nulls_are_equal
            || !wanted.of.nulls_are_equal
            || known.of.columns.iter().all(is_never_null);
        let by_bytes = known.by_bytes && wanted.by_bytes;
        let is_alike = |name: &String| self.is_alike(name, by_bytes);
        known.valid && nulls_fit && known.of.columns.iter().all(|name| is_there(name) && is_alike(name))
    }

    /// A column of the source, what both are compared as, and the destination's column.
    fn pair(&self, name: &str) -> Option<(&Column, Class, &Column)> {
        let place = self.left.table.columns.iter().position(|column| column.name == name)?;
        let class = self.pairing.columns.get(place)?.class;
        Some((&self.left.table.columns[place], class, self.right.table.columns.get(place)?))
    }

    /// Whether both sides take the same values of a column for one.
    fn is_alike(&self, name: &str, by_bytes: bool) -> bool {
        self.pair(name).is_some_and(|(left, _, right)| {
            let class = Class::of(&left.data_type);
            // Times may be rounded there.
            let is_exact =
                matches!(class, Class::Integer | Class::Text | Class::Bytes | Class::Date | Class::Uuid);
            left.native_type == right.native_type
                || by_bytes && is_exact && class == Class::of(&right.data_type)
        })
    }

    /// Whether the encoded values of the source are as many as they will be at the destination.
    fn is_told_apart(&self, name: &str) -> bool {
        let pair = self.pair(name);
        pair.is_some_and(|(_, class, right)| class == Class::Native || class == Class::of(&right.data_type))
    }
}

impl Side {
    /// Whether it has more than one row with the same values in these columns.
    pub(super) async fn not_unique(
        &self,
        of: &UniqueColumns,
        hash_key: &HashKey,
    ) -> Result<Option<NotUnique>> {
        let places: Arc<[usize]> = of.columns.iter().map(|name| self.place(name)).collect::<Result<_>>()?;
        if let Some(agent) = self.agent() {
            return agent.not_unique(of).await;
        }
        if let Some(digests) = self.digests() {
            let columns = places.to_vec();
            let there = RepeatedIn { columns, nulls_are_equal: of.nulls_are_equal, told_max: TOLD_MAX };
            return self.not_unique_inside(digests, of, there, hash_key).await;
        }
        let values = Values { places, nulls_are_equal: of.nulls_are_equal, hash_key: hash_key.clone() };
        let suspects = Arc::new(self.marked_twice(&values).await?);
        if suspects.is_empty() {
            return Ok(None);
        }
        let repeated = self.counted_in_parts(&values, &suspects).await?;
        if repeated.is_empty() {
            return Ok(None);
        }
        let some = self.some_values(&values, &repeated).await?;
        Ok(Some(NotUnique { columns: of.columns.clone(), values: repeated.len() as u64, some }))
    }

    async fn marked_twice(&self, values: &Values) -> Result<Bitmap> {
        let marks = Arc::new((Bitmap::new(), Bitmap::new()));
        let (values, marked) = (values.clone(), Arc::clone(&marks));
        let marking = self.read(
            || (),
            move |(), row| {
                if let Some(hash) = values.hash(row.row)?
                    && marked.0.set(hash)
                {
                    marked.1.set(hash);
                }
                Ok(())
            },
        );
        marking.await?;
        let (_, twice) = Arc::try_unwrap(marks).map_err(|_| Error::bug("a reader outlived its scan"))?;
        Ok(twice)
    }

    /// The hashes that more than one row has, with how many; in as many scans as memory asks for.
    async fn counted_in_parts(
        &self,
        values: &Values,
        suspects: &Arc<Bitmap>,
    ) -> Result<HashMap<RowHash, u64>> {
        let (mut parts, mut part) = (1, 0);
        let mut repeated = HashMap::new();
        while part < parts {
            match self.counted_part(values, suspects, part, parts).await? {
                Some(found) => {
                    repeated.extend(found);
                    part += 1;
                }
                // What was counted in part p of n is in the parts 2p and 2p + 1 of 2n.
                None => (part, parts) = (2 * part, 2 * parts),
            }
        }
        Ok(repeated)
    }

    async fn counted_part(
        &self,
        values: &Values,
        suspects: &Arc<Bitmap>,
        part: u128,
        parts: u128,
    ) -> Result<Option<HashMap<RowHash, u64>>> {
        let (values, suspects) = (values.clone(), Arc::clone(suspects));
        let counted = self.read(
            || (HashMap::<RowHash, u64>::new(), false),
            move |(counts, overflows), row| {
                if *overflows {
                    return Ok(());
                }
                let hash = values.hash(row.row)?.filter(|hash| suspects.has(*hash));
                // The high bits: the low ones chose the place in the bitmap.
                if let Some(hash) = hash.filter(|hash| ((hash.number() >> 32) * parts) >> 64 == part) {
                    *counts.entry(hash).or_insert(0) += 1;
                    *overflows = counts.len() > COUNTED_MAX;
                }
                Ok(())
            },
        );
        let mut all = HashMap::new();
        for (counts, overflows) in counted.await? {
            if overflows {
                return Ok(None);
            }
            counts.into_iter().for_each(|(hash, count)| *all.entry(hash).or_insert(0) += count);
        }
        all.retain(|_, count| *count > 1);
        Ok(Some(all))
    }

    async fn some_values(
        &self,
        values: &Values,
        repeated: &HashMap<RowHash, u64>,
    ) -> Result<Vec<RepeatedValue>> {
        let mut hashes: Vec<_> = repeated.iter().map(|(hash, count)| (*hash, *count)).collect();
        hashes.sort_unstable();
        hashes.truncate(TOLD_MAX);
        let told: Arc<HashMap<RowHash, u64>> = Arc::new(hashes.into_iter().collect());
        let (wanted, of) = (Arc::clone(&told), values.clone());
        let found = self.read(HashMap::new, move |found: &mut HashMap<RowHash, Vec<u8>>, row| {
            if let Some(encoded) = of.of(row.row)? {
                let hash = of.hash_key.row(&encoded);
                if wanted.contains_key(&hash) {
                    found.entry(hash).or_insert(encoded);
                }
            }
            Ok(())
        });
        let places: HashMap<RowHash, Vec<u8>> = found.await?.into_iter().flatten().collect();
        let mut some = Vec::with_capacity(places.len());
        for (hash, encoded) in places {
            let shown = self.show_at(&encoded, &values.places)?;
            some.push(RepeatedValue {
                value: shown.into_iter().map(|value| value.unwrap_or_else(null)).collect(),
                rows: told.get(&hash).copied().unwrap_or_default(),
            });
        }
        some.sort_by(|a, b| a.value.cmp(&b.value));
        Ok(some)
    }
}
