//! The payload of a batch's frame: per-row lists, then the rows and the old keys as Arrow IPC messages.
//!
//! The bodies of the messages stand at multiples of 16 bytes, so that the arrays of a batch that was read are slices
//! of the frame.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::read_record_batch;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow_schema::{ArrowError, SchemaRef};
use syncline_core::{ChangeBatch, ColumnMask, Error, Masks, OldKeys, Operation, Result};

use crate::bytes::{Malformed, Parsed, Payload, put_count};
use crate::lists::{put_u8s, put_u32s, put_u64s, take_u8s, take_u32s, take_u64s};
use crate::shape::Shape;

const BODY_ALIGNMENT: usize = 16;
const MESSAGE_ALIGNMENT: usize = 8;

const HAS_MASKS: u8 = 1;
const HAS_OLD: u8 = 2;

/// No old image, in the list of old rows.
const NO_ROW: u32 = u32::MAX;

/// Writes batches; keeps its buffers from one to the next.
pub(crate) struct BatchEncoder {
    options: IpcWriteOptions,
    context: IpcWriteContext,
    dictionaries: DictionaryTracker,
}

impl BatchEncoder {
    pub(crate) fn new() -> Result<Self> {
        let version = arrow_ipc::MetadataVersion::V5;
        Ok(Self {
            options: IpcWriteOptions::try_new(BODY_ALIGNMENT, false, version).map_err(unwritable)?,
            context: IpcWriteContext::default(),
            dictionaries: DictionaryTracker::new(true),
        })
    }

    /// Appends a batch; `start` is where the payload begins in `out`.
    pub(crate) fn put_batch(
        &mut self,
        out: &mut Vec<u8>,
        start: usize,
        number: u32,
        batch: &ChangeBatch,
        shape: &Shape,
    ) -> Result<()> {
        let rows = u32::try_from(batch.len()).map_err(|_| Error::bug("a batch of more than 2^32 rows"))?;
        out.extend(number.to_le_bytes());
        out.extend(rows.to_le_bytes());
        out.push(
            if batch.masks.is_some() { HAS_MASKS } else { 0 } | if batch.old.is_some() { HAS_OLD } else { 0 },
        );
        put_u8s(out, batch.operations.iter().map(|operation| *operation as u8));
        put_u64s(out, &batch.ordinals);
        put_u32s(out, &batch.transactions);
        if let Some(masks) = &batch.masks {
            put_masks(out, masks);
        }
        if let Some(old) = &batch.old {
            let rows: Vec<u32> = old.row.iter().map(|row| row.unwrap_or(NO_ROW)).collect();
            put_u32s(out, &rows);
        }
        self.put_rows(out, start, &batch.rows, &shape.rows)?;
        match &batch.old {
            Some(old) => self.put_rows(out, start, &old.keys, &shape.old),
            None => Ok(()),
        }
    }

    fn put_rows(
        &mut self,
        out: &mut Vec<u8>,
        start: usize,
        rows: &RecordBatch,
        expected: &SchemaRef,
    ) -> Result<()> {
        let schema = rows.schema_ref();
        if !Arc::ptr_eq(schema, expected) && schema != expected {
            return Err(Error::bug("a change batch whose columns are not those of its table"));
        }
        let generator = IpcDataGenerator {};
        let (_, message) = generator
            .encode(rows, &mut self.dictionaries, &self.options, &mut self.context)
            .map_err(unwritable)?;
        let length = |bytes: &[u8]| {
            u32::try_from(bytes.len()).map_err(|_| Error::bug("an Arrow message of more than 4 GiB"))
        };
        out.extend(length(&message.ipc_message)?.to_le_bytes());
        out.extend(length(&message.arrow_data)?.to_le_bytes());
        pad(out, start, MESSAGE_ALIGNMENT);
        out.extend_from_slice(&message.ipc_message);
        pad(out, start, BODY_ALIGNMENT);
        out.extend_from_slice(&message.arrow_data);
        Ok(())
    }
}

fn unwritable(error: ArrowError) -> Error {
    Error::bug("a change batch cannot be written as Arrow IPC").with_source(error)
}

fn pad(out: &mut Vec<u8>, start: usize, alignment: usize) {
    let length = (out.len() - start).next_multiple_of(alignment);
    out.resize(start + length, 0);
}

fn put_masks(out: &mut Vec<u8>, masks: &Masks) {
    put_count(out, masks.distinct.len());
    for mask in &masks.distinct {
        put_count(out, mask.iter().count());
        mask.iter().for_each(|column| put_count(out, column));
    }
    put_u32s(out, &masks.of_row);
}

/// The number of a batch's shape in its segment, without reading the rest.
pub(crate) fn shape_number(payload: &[u8]) -> Parsed<usize> {
    Payload::new(payload).u32().map(|number| number as usize)
}

/// Reads a batch. Its arrays are slices of `payload`.
pub(crate) fn parse_batch(payload: Vec<u8>, shape: &Shape, transactions: usize) -> Parsed<ChangeBatch> {
    let frame = Buffer::from_vec(payload);
    let mut payload = Payload::new(&frame);
    payload.u32()?;
    let count = payload.u32()? as usize;
    let flags = payload.u8()?;
    let operations = take_u8s(&mut payload, count)?
        .into_iter()
        .map(|code| Operation::try_from(code).map_err(|_| Malformed))
        .collect::<Parsed<Vec<_>>>()?;
    let ordinals = take_u64s(&mut payload, count)?;
    let of_row = take_u32s(&mut payload, count)?;
    if of_row.iter().any(|&number| number as usize >= transactions) {
        return Err(Malformed);
    }
    let masks = if flags & HAS_MASKS == 0 { None } else { Some(parse_masks(&mut payload, count)?) };
    let old_rows = if flags & HAS_OLD == 0 { None } else { Some(take_u32s(&mut payload, count)?) };
    let rows = parse_rows(&mut payload, &frame, &shape.rows)?;
    let old = old_rows.map(|numbers| parse_old(numbers, &mut payload, &frame, shape)).transpose()?;
    let batch = ChangeBatch {
        table: shape.table.clone(),
        rows,
        operations,
        ordinals,
        transactions: of_row,
        masks,
        old,
    };
    if payload.is_at_end() { batch.check().map_err(|_| Malformed) } else { Err(Malformed) }
}

fn parse_masks(payload: &mut Payload<'_>, count: usize) -> Parsed<Masks> {
    let mut masks = Masks { distinct: Vec::new(), of_row: Vec::new() };
    for _ in 0..payload.count()? {
        let mut mask = ColumnMask::none();
        for _ in 0..payload.count()? {
            // No table has more columns than a u16 counts.
            mask.insert(u16::try_from(payload.varint()?).map_err(|_| Malformed)?.into());
        }
        masks.distinct.push(mask);
    }
    masks.of_row = take_u32s(payload, count)?;
    let known = |number: &u32| (*number as usize) < masks.distinct.len();
    if masks.of_row.iter().all(known) { Ok(masks) } else { Err(Malformed) }
}

fn parse_old(numbers: Vec<u32>, payload: &mut Payload<'_>, frame: &Buffer, shape: &Shape) -> Parsed<OldKeys> {
    let keys = parse_rows(payload, frame, &shape.old)?;
    let place = |number: u32| match number {
        NO_ROW => Ok(None),
        number if (number as usize) < keys.num_rows() => Ok(Some(number)),
        _ => Err(Malformed),
    };
    Ok(OldKeys { row: numbers.into_iter().map(place).collect::<Parsed<_>>()?, keys })
}

fn parse_rows(payload: &mut Payload<'_>, frame: &Buffer, schema: &SchemaRef) -> Parsed<RecordBatch> {
    let message_length = payload.u32()? as usize;
    let body_length = payload.u32()? as usize;
    payload.align(MESSAGE_ALIGNMENT)?;
    let message = arrow_ipc::root_as_message(payload.take(message_length)?).map_err(|_| Malformed)?;
    payload.align(BODY_ALIGNMENT)?;
    let body = frame.slice_with_length(payload.position(), payload.take(body_length)?.len());
    let header = message.header_as_record_batch().ok_or(Malformed)?;
    read_record_batch(&body, header, schema.clone(), &HashMap::new(), None, &message.version())
        .map_err(|_| Malformed)
}
