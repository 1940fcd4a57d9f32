//! How a table is cut into chunks. Pure: what must be asked of the server is asked before.
//!
//! - *Key ranges*, each read in a snapshot of its own, where the key's order can be reproduced exactly and the table lies
//!   in that order, or where asked for. A restart goes on with the gaps.
//! - *One snapshot* for the whole table otherwise: ranges of blocks, read by several workers. Where chunks may be of different
//!   moments each range of blocks has a snapshot of its own.
//! - *Whole*: a small table, which is one chunk and so needs no snapshot that outlives it.

use syncline_core::{Chunk, Moment, Result, SnapshotOptions, TableSchema, TableState, failpoint};

use super::order::{Order, OrderedKey};
use super::range::{Range, bound};
use super::survey::Survey;

/// Bytes on disk (with TOAST) that make a chunk.
const CHUNK_BYTES: u64 = 48 << 20;

/// The same where a table is read in one snapshot by one reader. A restart begins anew whatever was loaded, and a COPY of the
/// whole table costs its server less than many of its ranges (benches/README.md).
const CHUNK_BYTES_ALONE: u64 = 1 << 30;

/// Chunks for each of several readers of one snapshot: enough that all end at about the same time.
const CHUNKS_PER_READER: u64 = 4;

/// Chunks of one table at most; a larger table has larger chunks.
const CHUNKS_MAX: u64 = 4096;

/// From here on a table counts as lying in its key's order (either way round).
const CORRELATION_MIN: f32 = 0.9;

/// How a table is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Keys,
    Whole,
    Blocks,
}

/// The ranges a ledger holds, without re-reads.
pub(super) fn loaded_ranges(state: &TableState) -> Result<Vec<Range>> {
    let ranges = state.chunks.values().map(|entry| Range::parse(&entry.range));
    let ranges: Vec<Range> = ranges.collect::<Result<_>>()?;
    Ok(ranges.into_iter().filter(|range| !matches!(range, Range::Rows { .. })).collect())
}

/// How a table with an empty ledger is cut.
pub(super) fn choose(survey: &Survey, options: SnapshotOptions, generation: u32) -> Mode {
    let keys_possible = survey.key.is_some();
    let shared_snapshot = options.moment == Moment::OfRun && !options.resumable;
    if shared_snapshot {
        return Mode::Blocks;
    }
    if survey.bytes() <= chunk_bytes() {
        return if keys_possible { Mode::Keys } else { Mode::Whole };
    }
    let correlation = survey.key.as_ref().and_then(|key| key.correlation).unwrap_or_default();
    let in_order = correlation.abs() > CORRELATION_MIN;
    if keys_possible && (options.resumable || generation > 1 || in_order) { Mode::Keys } else { Mode::Blocks }
}

/// Number of chunks for so many bytes.
pub(super) fn chunk_count(bytes: u64) -> u64 {
    count(bytes, chunk_bytes())
}

fn count(bytes: u64, of_chunk: u64) -> u64 {
    bytes.div_ceil(of_chunk).clamp(1, CHUNKS_MAX)
}

fn chunk_bytes() -> u64 {
    failpoint::size("chunk_bytes", CHUNK_BYTES)
}

/// Bytes of a chunk of blocks of a table of so many bytes: small where each holds a snapshot of its own.
fn bytes_of_blocks(bytes: u64, options: SnapshotOptions) -> u64 {
    let usual = match options.readers as u64 {
        _ if options.moment == Moment::OfChunk => CHUNK_BYTES,
        0 | 1 => CHUNK_BYTES_ALONE,
        readers => (bytes / (readers * CHUNKS_PER_READER)).clamp(CHUNK_BYTES, CHUNK_BYTES_ALONE),
    };
    failpoint::size("chunk_bytes", usual)
}

/// Chunks by blocks. The last one of a leaf is open: the leaf may have grown before the snapshot was taken.
pub(super) fn blocks(
    survey: &Survey,
    table: &TableSchema,
    first_n: u32,
    options: SnapshotOptions,
) -> Result<Vec<Chunk>> {
    let total = count(survey.bytes(), bytes_of_blocks(survey.bytes(), options));
    let mut cuts = Vec::new();
    for leaf in &survey.leaves {
        let share = u128::from(total) * u128::from(leaf.bytes) / u128::from(survey.bytes().max(1));
        let count = u64::try_from(share).unwrap_or(total).clamp(1, leaf.blocks.max(1));
        let step = leaf.blocks.div_ceil(count).max(1);
        let mut from = 0;
        loop {
            let to = Some(from + step).filter(|&to| to < leaf.blocks);
            cuts.push((leaf, Some(from).filter(|&from| from > 0), to));
            let Some(to) = to else { break };
            from = to;
        }
    }
    let of = u32::try_from(cuts.len()).unwrap_or(u32::MAX);
    let rows = table.rows_estimated.unwrap_or_default() / u64::from(of.max(1));
    let mut chunks = Vec::with_capacity(cuts.len());
    for (n, (leaf, from, to)) in (first_n..).zip(cuts) {
        let leaf_name = (leaf.id.schema.clone(), leaf.id.name.clone());
        let range = Range::Blocks { leaf: leaf_name, node: leaf.node, from, to, of };
        chunks.push(Chunk { n, range: range.to_text()?, rows_estimated: rows });
    }
    Ok(chunks)
}

/// Chunks by key that cover what `loaded` does not, cut at `bounds`.
pub(super) fn key_ranges(
    order: Order,
    bounds: &[String],
    loaded: &[Range],
    rows_estimated: u64,
    first_n: u32,
) -> Result<Vec<Chunk>> {
    let bounds = ordered(order, bounds);
    let rows = rows_estimated / (bounds.len() as u64 + 1);
    let mut chunks = Vec::new();
    let mut push = |from: Option<String>, to: Option<String>| -> Result<()> {
        let n = first_n.saturating_add(u32::try_from(chunks.len()).unwrap_or(u32::MAX));
        let range = Range::Keys { order, from, to }.to_text()?;
        chunks.push(Chunk { n, range, rows_estimated: rows });
        Ok(())
    };
    for (from, to) in gaps(order, loaded)? {
        let (low, high) = (bound(order, from.as_ref())?, bound(order, to.as_ref())?);
        let inside = bounds.iter().filter(|(key, _)| {
            low.as_ref().is_none_or(|low| key > low) && high.as_ref().is_none_or(|high| key < high)
        });
        let mut start = from.clone();
        for (_, text) in inside {
            push(start.replace((*text).clone()), Some((*text).clone()))?;
        }
        push(start, to)?;
    }
    Ok(chunks)
}

/// Bounds in the key's order, each once; what cannot be read is no bound.
fn ordered(order: Order, bounds: &[String]) -> Vec<(OrderedKey<'_>, &String)> {
    let mut keyed: Vec<_> =
        bounds.iter().filter_map(|text| Some((order.of_text(text.as_bytes())?, text))).collect();
    keyed.sort();
    keyed.dedup_by(|a, b| a.0 == b.0);
    keyed
}

type Gap = (Option<String>, Option<String>);

/// The half-open ranges that no loaded range covers.
fn gaps(order: Order, loaded: &[Range]) -> Result<Vec<Gap>> {
    let mut covered = Vec::new();
    for range in loaded {
        if let Range::Keys { from, to, .. } = range {
            covered.push((bound(order, from.as_ref())?, from, bound(order, to.as_ref())?, to));
        }
    }
    covered.sort_by(|a, b| a.0.cmp(&b.0));
    let mut gaps = Vec::new();
    let mut cursor: (Option<OrderedKey<'_>>, &Option<String>) = (None, &None);
    for (low, low_text, high, high_text) in &covered {
        if *low > cursor.0 {
            gaps.push((cursor.1.clone(), (*low_text).clone()));
        }
        match high {
            None => return Ok(gaps),
            Some(_) if *high > cursor.0 => cursor = (high.clone(), high_text),
            Some(_) => {}
        }
    }
    gaps.push((cursor.1.clone(), None));
    Ok(gaps)
}

/// Bounds for about `count` chunks out of a histogram, whose buckets hold equally many rows.
pub(super) fn bounds_of_histogram(order: Order, histogram: &[String], count: u64) -> Vec<String> {
    let Some(buckets) = histogram.len().checked_sub(1).filter(|&buckets| buckets > 0) else {
        return Vec::new();
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count <= buckets {
        return (1..count).map(|i| histogram[i * buckets / count].clone()).collect();
    }
    if order != Order::Int {
        return histogram[1..buckets].to_vec();
    }
    let numbers: Vec<i64> = histogram.iter().filter_map(|text| text.parse().ok()).collect();
    let pieces = count.div_ceil(buckets);
    let mut bounds: Vec<String> =
        numbers.windows(2).flat_map(|pair| evenly(pair[0], pair[1], pieces as u64)).collect();
    bounds.extend(
        numbers.get(1..numbers.len().saturating_sub(1)).unwrap_or_default().iter().map(i64::to_string),
    );
    bounds
}

/// The inner bounds of `pieces` equal pieces of a range of integers.
pub(super) fn evenly(low: i64, high: i64, pieces: u64) -> Vec<String> {
    let (low, span, pieces) =
        (i128::from(low), i128::from(high) - i128::from(low), i128::from(pieces.max(1)));
    let mut bounds: Vec<i128> = (1..pieces).map(|i| low + span * i / pieces).filter(|&b| b > low).collect();
    bounds.dedup();
    bounds.iter().map(i128::to_string).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::survey::Leaf;
    use super::*;
    use syncline_core::TableId;

    fn parse(chunks: &[Chunk]) -> Vec<(Option<i64>, Option<i64>)> {
        let number = |text: Option<String>| text.map(|t| t.parse().unwrap());
        let range = |chunk: &Chunk| match Range::parse(&chunk.range).unwrap() {
            Range::Keys { from, to, .. } => (number(from), number(to)),
            other => panic!("{other:?}"),
        };
        chunks.iter().map(range).collect()
    }

    #[test]
    fn an_empty_ledger_is_one_gap_from_end_to_end() {
        let bounds = ["30", "10", "10", "x"].map(String::from);
        let chunks = key_ranges(Order::Int, &bounds, &[], 300, 0).unwrap();
        assert_eq!(parse(&chunks), [(None, Some(10)), (Some(10), Some(30)), (Some(30), None)]);
        assert_eq!(chunks[2].n, 2);
    }

    proptest! {
        /// Whatever was loaded, loaded and planned ranges together hold every key exactly once.
        #[test]
        fn every_key_belongs_to_exactly_one_chunk(
            cuts in proptest::collection::btree_set(-50_i64..50, 0..12),
            kept in proptest::collection::vec(any::<bool>(), 13),
            bounds in proptest::collection::vec(-60_i64..60, 0..10),
        ) {
            let edges: Vec<Option<i64>> =
                std::iter::once(None).chain(cuts.into_iter().map(Some)).chain([None]).collect();
            let text = |edge: Option<i64>| edge.map(|number| number.to_string());
            let loaded: Vec<Range> = edges
                .windows(2)
                .zip(kept)
                .filter(|(_, kept)| *kept)
                .map(|(pair, _)| Range::Keys { order: Order::Int, from: text(pair[0]), to: text(pair[1]) })
                .collect();
            let bounds: Vec<String> = bounds.iter().map(i64::to_string).collect();
            let chunks = key_ranges(Order::Int, &bounds, &loaded, 0, 7).unwrap();
            let mut all = parse(&chunks);
            for range in &loaded {
                if let Range::Keys { from, to, .. } = range {
                    all.push((from.as_ref().map(|t| t.parse().unwrap()), to.as_ref().map(|t| t.parse().unwrap())));
                }
            }
            for key in -70_i64..70 {
                let holds = |(from, to): &&(Option<i64>, Option<i64>)| {
                    from.is_none_or(|from| key >= from) && to.is_none_or(|to| key < to)
                };
                prop_assert_eq!(all.iter().filter(holds).count(), 1, "key {}", key);
            }
            let numbers: Vec<u32> = chunks.iter().map(|c| c.n).collect();
            prop_assert_eq!(numbers, (7..7 + u32::try_from(chunks.len()).unwrap()).collect::<Vec<_>>());
        }

        #[test]
        fn blocks_cover_every_leaf_once(sizes in proptest::collection::vec(0_u64..400_000, 1..6), readers in 0_usize..5) {
            let leaf = |(n, &blocks): (usize, &u64)| Leaf {
                id: TableId::new("s", format!("t{n}")), node: 1, blocks, bytes: blocks * 8192,
            };
            let leaves: Vec<Leaf> = sizes.iter().enumerate().map(leaf).collect();
            let survey = Survey { partitioned: true, leaves, key: None };
            let table = TableSchema {
                id: TableId::new("s", "t"), columns: vec![], row_key: vec![], version: 1, rows_estimated: None, native: None,
            };
            let options = SnapshotOptions { resumable: false, moment: Moment::OfTable, readers };
            let chunks = blocks(&survey, &table, 0, options).unwrap();
            for (n, &size) in sizes.iter().enumerate() {
                let mut at = Some(0);
                for chunk in &chunks {
                    let Range::Blocks { leaf, from, to, of, .. } = Range::parse(&chunk.range).unwrap() else { panic!() };
                    prop_assert_eq!(of as usize, chunks.len());
                    if leaf.1 == format!("t{n}") {
                        prop_assert_eq!(Some(from.unwrap_or(0)), at);
                        prop_assert!(to.is_none_or(|to| to < size));
                        at = to;
                    }
                }
                prop_assert_eq!(at, None);
            }
        }
    }

    #[test]
    fn who_reads_alone_reads_large_chunks() {
        let of = |bytes, readers, moment| {
            bytes_of_blocks(bytes, SnapshotOptions { resumable: false, moment, readers }) >> 20
        };
        let mib = |bytes, readers| of(bytes, readers, Moment::OfTable);
        assert_eq!(mib(10 << 30, 1), 1024);
        assert_eq!(mib(640 << 20, 2), 80);
        assert_eq!(mib(100 << 20, 2), 48);
        assert_eq!(mib(100 << 30, 2), 1024);
        assert_eq!(of(100 << 30, 1, Moment::OfChunk), 48, "nothing long is held");
    }

    #[test]
    fn bounds_of_any_number_come_from_the_histogram() {
        let histogram: Vec<String> = (0..=100).map(|i| (i * 10).to_string()).collect();
        assert_eq!(bounds_of_histogram(Order::Int, &histogram, 4), ["250", "500", "750"]);
        assert_eq!(bounds_of_histogram(Order::Int, &histogram, 1).len(), 0);
        let fine = bounds_of_histogram(Order::Int, &histogram, 200);
        assert_eq!(ordered(Order::Int, &fine).len(), 199);
        assert_eq!(bounds_of_histogram(Order::Text, &histogram, 200).len(), 99);
        assert_eq!(bounds_of_histogram(Order::Int, &[], 9).len(), 0);
        assert_eq!(evenly(i64::MIN, i64::MAX, 2), ["-1"]);
        assert_eq!(evenly(5, 5, 4).len(), 0);
    }
}
