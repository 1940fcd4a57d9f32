//! Comparing by digests that the databases compute themselves: for two sides that are both far away.
//!
//! A pass is one read of the table on either side, and tells sums by place, the first bits of the key's hash. Places that differ
//! are divided by further bits until they hold few rows; then the hashes of their rows are told, with their keys, which gives
//! the same difference as two sketches do. Rows themselves are read afterwards, by key, as ever.
//!
//! | pass | what is told of each side | when |
//! |---|---|---|
//! | first | 28 bytes for each of 16 to 1,024 places | always; the only one if the tables are equal |
//! | next ones | 28 bytes for each part of a place that differed | while the places that differ hold more than a few dozen rows on average |
//! | last | 12 bytes and the key for each row of a place that differed | once; of a large difference in at most [`LISTS_MAX`] parts, a pass each |
//!
//! | module | what it is for |
//! |---|---|
//! | `tally` | what a side tells, whether its database does or, for a side that is here, this process |
//! | `side` | what else is asked of a side: rows by their hashes, unique columns |
//!
//! Not here: hashing in SQL, which is a connector's.

mod side;
mod tally;

use std::collections::HashMap;

use serde::Serialize;
use syncline_core::digests::{HashedRow, PLACE_BITS_MAX, Places, RowSum};
use syncline_core::{Error, Result};

use self::tally::Tally;
use super::comparison::{Comparison, Found};
use super::remote::Exchanged;
use super::sketches::{Difference, DifferingRow, HashKey, Identity, KeyRef, RowHash, TableDigest};

/// Rows that a place of the first pass should have.
const ROWS_PER_PLACE: u64 = 256;
/// Places of the first pass, as logarithms: 28 KB at most.
const FIRST_BITS: std::ops::RangeInclusive<u8> = 4..=10;
/// Places of one pass, as a logarithm: 3.5 MB, about 10 MB here.
const PLACES_BITS_MAX: u32 = 17;
/// Places that hold so many rows on average are not worth another pass.
const FEW_ROWS: u64 = 32;
/// So many rows in all are listed at once, however many to a place.
const LISTED_ROWS_CHEAP: u64 = 2_000;
/// Rows that are listed in one pass.
const LISTED_ROWS_MAX: u64 = 100_000;
/// Bytes that they take.
const LISTED_BYTES_MAX: usize = 64 << 20;
/// Passes that list rows.
const LISTS_MAX: usize = 8;

/// What a comparison inside the databases has cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct InsideCost {
    /// Statements to the source's database and its answers, without the rows that differ.
    pub source: Exchanged,
    /// The destination's.
    pub destination: Exchanged,
}

/// Sums by place.
type Sums = HashMap<u64, RowSum>;

/// A place whose sums differ, with the rows that the side with more of them has there.
#[derive(Debug, Clone, Copy)]
struct Differs {
    place: u64,
    rows: u64,
}

impl Comparison {
    /// The same comparison by digests that the databases compute.
    ///
    /// # Errors
    /// Configuration if neither side's database can, or if an agent reads one of them.
    pub fn inside(mut self) -> Result<Self> {
        if self.left.agent().is_some() || self.right.agent().is_some() {
            return Err(Error::configuration("an agent sums its rows up itself, beside its database")
                .with_remedy("leave --digest in-database out, or name the databases themselves"));
        }
        self.hash_key = HashKey::sha256(*self.hash_key.bytes());
        (self.left, self.right) = (self.left.inside(), self.right.inside());
        if self.left.digests().is_none() && self.right.digests().is_none() {
            return Err(Error::configuration("neither of these databases can sum up its rows itself")
                .with_remedy("leave --digest in-database out"));
        }
        Ok(self)
    }

    /// What it has cost so far, if the databases compute its digests.
    pub(super) fn inside_cost(&self) -> Option<InsideCost> {
        let is_inside = self.left.is_inside() || self.right.is_inside();
        is_inside.then(|| InsideCost { source: self.left.exchanged(), destination: self.right.exchanged() })
    }

    /// Finds what differs.
    pub(super) async fn find_inside(&self) -> Result<Found> {
        let (left, right) =
            tokio::try_join!(self.left.tally(&self.hash_key), self.right.tally(&self.hash_key))?;
        let mut search = Search { left, right, found: Found::default() };
        let rows = self.pairing.left.rows_estimated.max(self.pairing.right.rows_estimated);
        search.run(rows.unwrap_or_default(), self.identity).await?;
        let Search { left, right, found } = search;
        tokio::try_join!(left.end(), right.end())?;
        Ok(found)
    }
}

/// A search under way.
struct Search {
    left: Tally,
    right: Tally,
    found: Found,
}

impl Search {
    async fn run(&mut self, rows_estimated: u64, identity: Identity) -> Result<()> {
        let mut bits = first_bits(rows_estimated);
        let (left, right) = self.sums(&Places::ALL, bits).await?;
        (self.found.left, self.found.right) = (digest(&left), digest(&right));
        let mut differing = differing(&left, &right);
        while let Some(more) = further_bits(&differing, bits) {
            let of = places(&differing, bits);
            bits += more;
            let (left, right) = self.sums(&of, bits).await?;
            let examined = differing.len() << more;
            differing = self::differing(&left, &right);
            tracing::debug!(bits, examined, differing = differing.len(), "places were divided");
        }
        let lists = in_lists(&differing);
        if lists.len() > LISTS_MAX {
            let rows: u64 = differing.iter().map(|differs| differs.rows).sum();
            // At least one row of each place differs, and at most all do.
            self.found.too_many = Some(rows.min(2 * differing.len() as u64));
            return Ok(());
        }
        for list in lists {
            let rows = self.differing_rows(&places(list, bits)).await?;
            self.found.difference.append(Difference::of_rows(rows, identity));
        }
        Ok(())
    }

    async fn sums(&mut self, of: &Places, bits: u8) -> Result<(Sums, Sums)> {
        self.found.scans += 1;
        let (left, right) = tokio::try_join!(self.left.sums(of, bits), self.right.sums(of, bits))?;
        let by_place = |sums: Vec<RowSum>| sums.into_iter().map(|sum| (sum.place, sum)).collect();
        Ok((by_place(left), by_place(right)))
    }

    /// The rows of these places that are on one side only, or more often there, and whether that is the left one.
    async fn differing_rows(&mut self, of: &Places) -> Result<Vec<(DifferingRow, bool)>> {
        self.found.scans += 1;
        let (left, right) = tokio::try_join!(
            self.left.hashes(of, LISTED_BYTES_MAX),
            self.right.hashes(of, LISTED_BYTES_MAX)
        )?;
        let mut copies: HashMap<(Box<[u8]>, RowHash), i128> = HashMap::new();
        let mut count = |rows: Vec<HashedRow>, sign: i128| {
            for HashedRow { key, row, copies: here } in rows {
                *copies.entry((key, RowHash::of_bytes(row))).or_insert(0) += sign * i128::from(here);
            }
        };
        count(left, 1);
        count(right, -1);
        let differing = copies.into_iter().filter(|(_, copies)| *copies != 0).map(|((key, row), copies)| {
            // A table without a row key has no keys; one with a key has none of no bytes.
            let key = if key.is_empty() { KeyRef::Unknown } else { KeyRef::Bytes(key) };
            let more = u32::try_from(copies.unsigned_abs()).unwrap_or(u32::MAX);
            (DifferingRow { key, row, copies: more }, copies > 0)
        });
        Ok(differing.collect())
    }
}

/// Bits of a place in the first pass.
fn first_bits(rows_estimated: u64) -> u8 {
    let places = rows_estimated.div_ceil(ROWS_PER_PLACE).max(1).next_power_of_two();
    let bits = u8::try_from(places.trailing_zeros()).unwrap_or(u8::MAX);
    bits.clamp(*FIRST_BITS.start(), *FIRST_BITS.end())
}

/// By how many bits the places that differ are divided further; `None`: their rows are listed.
fn further_bits(differing: &[Differs], bits: u8) -> Option<u8> {
    let rows: u64 = differing.iter().map(|differs| differs.rows).sum();
    let places = differing.len() as u64;
    if rows <= LISTED_ROWS_CHEAP || rows <= places * FEW_ROWS {
        return None;
    }
    // To about half of what is few, as far as there is room.
    let wanted = (2 * rows).div_ceil(places * FEW_ROWS).next_power_of_two().trailing_zeros();
    let room = PLACES_BITS_MAX.saturating_sub(places.next_power_of_two().trailing_zeros());
    let more = u8::try_from(wanted.min(room)).unwrap_or(u8::MAX).min(PLACE_BITS_MAX - bits);
    (more > 0).then_some(more)
}

fn differing(left: &Sums, right: &Sums) -> Vec<Differs> {
    let none = RowSum::default();
    let of = |place: u64| {
        let (left, right) = (left.get(&place).unwrap_or(&none), right.get(&place).unwrap_or(&none));
        let is_equal = (left.rows, left.sums) == (right.rows, right.sums);
        (!is_equal).then_some(Differs { place, rows: left.rows.max(right.rows) })
    };
    let only_right = right.keys().filter(|place| !left.contains_key(place));
    let mut differing: Vec<_> = left.keys().chain(only_right).filter_map(|place| of(*place)).collect();
    differing.sort_unstable_by_key(|differs| differs.place);
    differing
}

fn places(of: &[Differs], bits: u8) -> Places {
    Places { bits, prefixes: of.iter().map(|differs| differs.place).collect() }
}

/// The places in groups whose rows are listed together.
fn in_lists(differing: &[Differs]) -> Vec<&[Differs]> {
    let (mut lists, mut rest) = (Vec::new(), differing);
    while !rest.is_empty() {
        let mut rows = 0_u64;
        let fitting = rest.iter().take_while(|differs| {
            rows = rows.saturating_add(differs.rows);
            rows <= LISTED_ROWS_MAX
        });
        let (list, later) = rest.split_at(fitting.count().max(1));
        lists.push(list);
        rest = later;
    }
    lists
}

/// The sums over all places.
fn digest(sums: &Sums) -> TableDigest {
    let mut digest = TableDigest::default();
    for sum in sums.values() {
        let [first, second] = sum.sums;
        digest.rows = digest.rows.wrapping_add(sum.rows);
        digest.row_sum = digest.row_sum.wrapping_add(u128::from(first) << 64 | u128::from(second));
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differ(places: u64, rows: u64) -> Vec<Differs> {
        (0..places).map(|place| Differs { place, rows }).collect()
    }

    #[test]
    fn places_are_divided_until_they_hold_few_rows() {
        assert_eq!((first_bits(0), first_bits(100_000), first_bits(u64::MAX)), (4, 9, 10));
        assert_eq!(further_bits(&[], 10), None, "nothing differs");
        assert_eq!(further_bits(&differ(1, 1_000), 10), None, "few rows in all");
        assert_eq!(further_bits(&differ(1_000, 30), 10), None, "few rows to a place");
        assert_eq!(further_bits(&differ(1, 1_000_000), 10), Some(16));
        assert_eq!(
            further_bits(&differ(1_024, 1_000_000), 10),
            Some(7),
            "as many places as there is room for"
        );
        assert_eq!(further_bits(&differ(1 << 17, 1_000), 17), None, "no room");
        assert_eq!(further_bits(&differ(1, u64::MAX / 4), 32), None, "no bits");
    }

    #[test]
    fn lists_are_bounded_and_a_full_place_is_a_list_of_its_own() {
        let differing = [differ(3, 40_000), differ(1, 1_000_000), differ(1, 1)].concat();
        let lengths: Vec<usize> = in_lists(&differing).into_iter().map(<[Differs]>::len).collect();
        assert_eq!(lengths, [2, 1, 1, 1]);
    }

    #[test]
    fn a_place_that_one_side_lacks_differs() {
        let sum = |place, rows| (place, RowSum { place, rows, sums: [rows, 0] });
        let (left, right) = (Sums::from([sum(1, 5), sum(2, 6)]), Sums::from([sum(2, 6), sum(3, 7)]));
        let found: Vec<_> = differing(&left, &right).iter().map(|d| (d.place, d.rows)).collect();
        assert_eq!(found, [(1, 5), (3, 7)]);
    }
}
