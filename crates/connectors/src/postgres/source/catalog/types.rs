//! Types: what their values are, in which form they travel, and how to create them elsewhere.

use std::collections::{BTreeSet, HashMap};

use syncline_core::{Carriage, Carry, DataType, Result};

use super::read::query;
use super::rows::{Attribute, Relation};
use crate::postgres::connect::Session;
use crate::postgres::definition::{TypeDefinition, TypeKind};

/// All types that the columns of the selected tables need, directly or through others.
pub(in crate::postgres::source) struct Types {
    by_oid: HashMap<u32, Type>,
}

/// One type.
#[derive(Debug)]
struct Type {
    schema: String,
    name: String,
    shape: Shape,
    /// Whether it can be sent in binary at all; if not, it comes as text also in a binary stream.
    sendable: bool,
    receivable: bool,
    extension: Option<String>,
}

/// What a type is made of.
#[derive(Debug)]
enum Shape {
    Base,
    Array { element: u32 },
    Enum { labels: Vec<String> },
    Domain { base: u32, sql_base: String, not_null: bool, checks: Vec<String> },
    Composite { attributes: Vec<(String, String)>, types: Vec<u32>, of_table: bool },
    Range { subtype: u32, sql_subtype: String },
    Multirange { range: u32 },
    Pseudo,
}

/// How the binary value of a type behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The same bytes mean the same in every database.
    Binary,
    /// It has a binary value, but one that means something only in its own database, or that we do not vouch for.
    TextInstead,
    /// It has no binary value.
    TextOnly,
}

impl Type {
    fn is_built_in(&self) -> bool {
        self.schema == "pg_catalog"
    }

    /// Defined by the standard or the server, so that every database has it.
    fn is_everywhere(&self) -> bool {
        self.is_built_in() || self.schema == "information_schema"
    }
}

impl Types {
    /// Reads the types of all columns and what those are made of.
    pub(super) async fn read(session: &Session, relations: &[Relation]) -> Result<Self> {
        let oids: BTreeSet<u32> =
            relations.iter().flat_map(|r| r.attributes.iter().map(|a| a.type_oid)).collect();
        let oids: Vec<u32> = oids.into_iter().collect();
        let mut by_oid = HashMap::new();
        for row in query(session, CLOSURE, &oids).await? {
            let kind: String = row.get(3);
            let shape = match kind.as_str() {
                "e" => Shape::Enum { labels: row.get(11) },
                "d" => Shape::Domain {
                    base: row.get(5),
                    sql_base: row.get(6),
                    not_null: row.get(7),
                    checks: row.get(12),
                },
                "c" => Shape::Composite {
                    attributes: row
                        .get::<_, Vec<String>>(13)
                        .into_iter()
                        .zip(row.get::<_, Vec<String>>(14))
                        .collect(),
                    types: row.get(15),
                    of_table: row.get(16),
                },
                "r" => Shape::Range { subtype: row.get(8), sql_subtype: row.get(9) },
                "m" => Shape::Multirange { range: row.get(10) },
                "p" => Shape::Pseudo,
                _ => match row.get::<_, Option<u32>>(4) {
                    Some(element) => Shape::Array { element },
                    None => Shape::Base,
                },
            };
            let ty = Type {
                schema: row.get(1),
                name: row.get(2),
                shape,
                sendable: row.get(17),
                receivable: row.get(18),
                extension: row.get(19),
            };
            by_oid.insert(row.get(0), ty);
        }
        Ok(Self { by_oid })
    }

    /// Whether a column of this type lets the whole stream be binary.
    pub(super) fn allows_binary_stream(&self, oid: u32) -> bool {
        self.form(oid) != Form::TextInstead
    }

    /// How a column's values travel.
    pub(super) fn carriage(&self, attribute: &Attribute, carry: Carry, stream_is_binary: bool) -> Carriage {
        match (carry, self.form(attribute.type_oid)) {
            (Carry::Typed, _) => Carriage::Typed,
            (Carry::Native, Form::Binary) if stream_is_binary => Carriage::Native,
            (Carry::Native, _) => Carriage::NativeText,
        }
    }

    fn form(&self, oid: u32) -> Form {
        let Some(ty) = self.by_oid.get(&oid) else { return Form::TextInstead };
        let portable = match &ty.shape {
            Shape::Base => ty.is_built_in() && !ty.name.starts_with("reg"),
            // An array's binary value names its element type by OID, which only built-in types have everywhere alike.
            Shape::Array { element } => {
                ty.is_built_in() && self.is_built_in(*element) && self.form(*element) == Form::Binary
            }
            Shape::Enum { .. } => true,
            Shape::Domain { base, .. } => return self.form(*base),
            Shape::Range { subtype, .. } => ty.is_built_in() && self.form(*subtype) == Form::Binary,
            Shape::Multirange { range } => ty.is_built_in() && self.form(*range) == Form::Binary,
            Shape::Composite { .. } | Shape::Pseudo => false,
        };
        match (ty.sendable, portable && ty.receivable) {
            (true, true) => Form::Binary,
            (true, false) => Form::TextInstead,
            (false, _) => Form::TextOnly,
        }
    }

    fn is_built_in(&self, oid: u32) -> bool {
        self.by_oid.get(&oid).is_some_and(Type::is_built_in)
    }

    /// What a column's values are.
    pub(super) fn data_type(&self, attribute: &Attribute) -> DataType {
        let mut oid = attribute.type_oid;
        while let Some(Type { shape: Shape::Domain { base, .. }, .. }) = self.by_oid.get(&oid) {
            oid = *base;
        }
        let native = || DataType::Native(attribute.sql_type.clone());
        let Some(ty) = self.by_oid.get(&oid).filter(|ty| ty.is_built_in()) else { return native() };
        match ty.name.as_str() {
            "bool" => DataType::Bool,
            "int2" => DataType::Int(16),
            "int4" => DataType::Int(32),
            "int8" => DataType::Int(64),
            "float4" => DataType::Float32,
            "float8" => DataType::Float64,
            // Also with a declared precision, because NaN is a value of it.
            "numeric" => DataType::Numeric,
            "text" | "varchar" | "bpchar" | "name" => DataType::Text,
            "bytea" => DataType::Bytes,
            "date" => DataType::Date,
            "time" => DataType::Time,
            "timestamp" => DataType::Timestamp,
            "timestamptz" => DataType::TimestampTz,
            "uuid" => DataType::Uuid,
            "json" | "jsonb" => DataType::Json,
            _ => native(),
        }
    }

    /// The user types that these types need, each after those it is made of.
    pub(super) fn definitions(&self, oids: impl IntoIterator<Item = u32>) -> Vec<TypeDefinition> {
        let (mut seen, mut definitions) = (BTreeSet::new(), Vec::new());
        for oid in oids {
            self.define(oid, &mut seen, &mut definitions);
        }
        definitions
    }

    /// Depth first. The server allows no type inside itself, so this ends; `seen` is for what is used twice.
    fn define(&self, oid: u32, seen: &mut BTreeSet<u32>, into: &mut Vec<TypeDefinition>) {
        let Some(ty) = self.by_oid.get(&oid).filter(|ty| !ty.is_everywhere()) else { return };
        if !seen.insert(oid) {
            return;
        }
        let kind = if let Some(extension) = &ty.extension {
            TypeKind::Extension { extension: extension.clone() }
        } else {
            match &ty.shape {
                Shape::Array { element } => return self.define(*element, seen, into),
                Shape::Multirange { range } => return self.define(*range, seen, into),
                Shape::Base | Shape::Pseudo => return,
                Shape::Enum { labels } => TypeKind::Enum { labels: labels.clone() },
                Shape::Domain { base, sql_base, not_null, checks } => {
                    self.define(*base, seen, into);
                    TypeKind::Domain { base: sql_base.clone(), not_null: *not_null, checks: checks.clone() }
                }
                Shape::Composite { of_table: true, .. } => return,
                Shape::Composite { attributes, types, .. } => {
                    types.iter().for_each(|oid| self.define(*oid, seen, into));
                    TypeKind::Composite { attributes: attributes.clone() }
                }
                Shape::Range { subtype, sql_subtype } => {
                    self.define(*subtype, seen, into);
                    TypeKind::Range { subtype: sql_subtype.clone() }
                }
            }
        };
        into.push(TypeDefinition { schema: ty.schema.clone(), name: ty.name.clone(), kind });
    }
}

/// The types asked for, and, recursively, those they are made of.
const CLOSURE: &str = "
    WITH RECURSIVE needed(oid) AS (
        SELECT unnest($1::oid[])
        UNION
        SELECT part.oid
        FROM needed JOIN pg_type t ON t.oid = needed.oid
        CROSS JOIN LATERAL (
            SELECT t.typelem AS oid WHERE t.typelem <> 0
            UNION ALL SELECT t.typbasetype WHERE t.typbasetype <> 0
            UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
            UNION ALL SELECT r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid
            UNION ALL SELECT a.atttypid FROM pg_attribute a
                WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        ) part
    )
    SELECT t.oid, n.nspname::text, t.typname::text, t.typtype::text,
           CASE WHEN t.typsubscript = 'array_subscript_handler'::regproc THEN t.typelem END,
           t.typbasetype, format_type(t.typbasetype, t.typtypmod), t.typnotnull,
           r.rngsubtype, format_type(r.rngsubtype, NULL),
           (SELECT m.rngtypid FROM pg_range m WHERE m.rngmultitypid = t.oid),
           ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder),
           ARRAY(SELECT 'CONSTRAINT ' || quote_ident(c.conname) || ' ' || pg_get_constraintdef(c.oid)
                 FROM pg_constraint c WHERE c.contypid = t.oid AND c.contype = 'c'
                   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_constraint'::regclass
                                   AND d.objid = c.oid AND d.refclassid = 'pg_proc'::regclass)
                 ORDER BY c.conname),
           ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid
                   AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
           ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE t.typtype = 'c'
                   AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
           ARRAY(SELECT a.atttypid FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid
                   AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
           EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind <> 'c'),
           t.typsend <> 0, t.typreceive <> 0,
           (SELECT x.extname::text FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid
            WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
              AND d.refclassid = 'pg_extension'::regclass)
    FROM needed JOIN pg_type t ON t.oid = needed.oid JOIN pg_namespace n ON n.oid = t.typnamespace
    LEFT JOIN pg_range r ON r.rngtypid = t.oid";
