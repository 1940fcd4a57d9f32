//! Tables in a shape, each once: who reads the same shape twice gets the same `Arc`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_schema::SchemaRef;
use syncline_core::{TableId, TableSchema};

/// Pointers remembered per segment; above, they are forgotten and found again by comparison.
const POINTERS_MAX: usize = 1024;

/// A table in a shape, with what its batches look like.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) table: Arc<TableSchema>,
    pub(crate) rows: SchemaRef,
    pub(crate) old: SchemaRef,
}

/// All shapes that a journal has seen since it was opened.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    shapes: Mutex<HashMap<TableId, Vec<Arc<Shape>>>>,
}

impl Interner {
    pub(crate) fn intern(&self, table: &Arc<TableSchema>) -> Arc<Shape> {
        let mut shapes = self.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = shapes.entry(table.id.clone()).or_default();
        if let Some(shape) = known.iter().find(|shape| same(&shape.table, table)) {
            return shape.clone();
        }
        let shape = Shape { table: table.clone(), rows: table.arrow(), old: table.arrow_old() };
        known.push(Arc::new(shape));
        known[known.len() - 1].clone()
    }
}

fn same(left: &Arc<TableSchema>, right: &Arc<TableSchema>) -> bool {
    Arc::ptr_eq(left, right) || left == right
}

/// The shapes of a segment being written, by the number that its batches name them with.
#[derive(Debug, Default)]
pub(crate) struct ShapeTable {
    shapes: Vec<Arc<Shape>>,
    /// The address of a table and its number. The `Arc` keeps the address from being given to another.
    pointers: HashMap<usize, (Arc<TableSchema>, u32)>,
}

impl ShapeTable {
    /// Goes on with a segment that has these shapes.
    pub(crate) fn resume(shapes: Vec<Arc<Shape>>) -> Self {
        Self { shapes, pointers: HashMap::new() }
    }

    pub(crate) fn shapes(&self) -> &[Arc<Shape>] {
        &self.shapes
    }

    /// The number of a table's shape. `true`: it is new in this segment and must be written first.
    pub(crate) fn number(&mut self, table: &Arc<TableSchema>, interner: &Interner) -> (u32, bool) {
        let address = Arc::as_ptr(table).addr();
        if let Some((_, number)) = self.pointers.get(&address) {
            return (*number, false);
        }
        let found = self.shapes.iter().position(|shape| same(&shape.table, table));
        let place = found.unwrap_or_else(|| {
            self.shapes.push(interner.intern(table));
            self.shapes.len() - 1
        });
        // Far fewer than 2^32 shapes fit into a segment.
        let number = u32::try_from(place).unwrap_or(u32::MAX);
        if self.pointers.len() >= POINTERS_MAX {
            self.pointers.clear();
        }
        self.pointers.insert(address, (table.clone(), number));
        (number, found.is_none())
    }
}
