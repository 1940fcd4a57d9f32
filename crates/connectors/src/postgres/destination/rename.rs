//! SQL text of the source with its schemas renamed to the destination's.
//!
//! Definitions come with every name qualified (the source reads them with an empty `search_path`), so a schema is an
//! identifier before a dot. Types of extensions keep their schema: they are where the extension is.

use std::collections::HashSet;

use syncline_core::{SchemaMap, TableId};

use super::super::definition::{Definition, TypeKind};
use super::super::quote::ident;

/// How names of the source are written at the destination.
pub(super) struct Renaming<'a> {
    map: &'a SchemaMap,
    fixed: HashSet<(String, String)>,
}

impl<'a> Renaming<'a> {
    /// The renaming of a pipeline, for a table with this definition.
    pub(super) fn new(map: &'a SchemaMap, definition: Option<&Definition>) -> Self {
        let types = definition.map_or(&[][..], |definition| &definition.types[..]);
        let fixed = types
            .iter()
            .filter(|defined| matches!(defined.kind, TypeKind::Extension { .. }))
            .map(|defined| (defined.schema.clone(), defined.name.clone()))
            .collect();
        Self { map, fixed }
    }

    /// The destination's name of a schema.
    pub(super) fn schema(&self, schema: &str) -> String {
        self.map.map(&TableId::new(schema, "")).schema
    }

    /// The destination's name of a table.
    pub(super) fn table(&self, table: &TableId) -> TableId {
        self.map.map(table)
    }

    /// SQL text with its schemas renamed.
    pub(super) fn sql(&self, sql: &str) -> String {
        if self.map.0.is_empty() {
            return sql.to_owned();
        }
        let mut out = String::with_capacity(sql.len() + 16);
        let mut rest = sql;
        let mut after_dot = false;
        while let Some(first) = rest.chars().next() {
            let length = token_length(rest, first);
            let (token, after) = rest.split_at(length);
            let name = name_of(token, first);
            match (name, after.strip_prefix('.')) {
                (Some(schema), Some(member)) if !after_dot => {
                    out.push_str(&self.qualifier(token, &schema, member));
                }
                _ => out.push_str(token),
            }
            after_dot = first == '.';
            rest = after;
        }
        out
    }

    fn qualifier(&self, token: &str, schema: &str, member: &str) -> String {
        let first = member.chars().next().unwrap_or(' ');
        let name = name_of(&member[..token_length(member, first)], first);
        let fixed = name.is_some_and(|name| self.fixed.contains(&(schema.to_owned(), name)));
        let renamed = self.schema(schema);
        if fixed || renamed == schema { token.to_owned() } else { ident(&renamed) }
    }
}

/// Length of the token that `text` begins with: a string, a quoted or bare identifier, or one other character.
fn token_length(text: &str, first: char) -> usize {
    match first {
        '"' => closing(text, '"', false),
        '\'' => closing(text, '\'', false),
        'E' | 'e' if text[1..].starts_with('\'') => 1 + closing(&text[1..], '\'', true),
        c if c.is_alphabetic() || c == '_' => {
            text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len())
        }
        c if c.is_ascii_digit() => text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len()),
        other => other.len_utf8(),
    }
}

/// Length up to and with the closing quote; a doubled one stands for itself.
fn closing(text: &str, quote: char, backslashes: bool) -> usize {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if backslashes && c == '\\' {
            chars.next();
        } else if c == quote {
            if chars.peek().is_some_and(|&(_, next)| next == quote) {
                chars.next();
            } else {
                return at + c.len_utf8();
            }
        }
    }
    text.len()
}

/// The identifier that a token is, without quotes.
fn name_of(token: &str, first: char) -> Option<String> {
    match first {
        '"' => token.strip_prefix('"')?.strip_suffix('"').map(|inner| inner.replace("\"\"", "\"")),
        c if c.is_alphabetic() || c == '_' => (!token.ends_with('\'')).then(|| token.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(sql: &str) -> String {
        let map = SchemaMap(vec![("public".into(), "My Copy".into()), ("o\"dd".into(), "even".into())]);
        let mut renaming = Renaming::new(&map, None);
        renaming.fixed.insert(("public".into(), "citext".into()));
        renaming.sql(sql)
    }

    #[test]
    fn schemas_are_renamed_and_nothing_else() {
        assert_eq!(renamed("public.mood[]"), "\"My Copy\".mood[]");
        assert_eq!(renamed("\"o\"\"dd\".\"x.y\"(3)"), "\"even\".\"x.y\"(3)");
        assert_eq!(renamed("public.citext"), "public.citext");
        assert_eq!(renamed("numeric(10,2)"), "numeric(10,2)");
        assert_eq!(
            renamed("FOR VALUES IN ('public.a''b'::public.mood, E'\\'public.x')"),
            "FOR VALUES IN ('public.a''b'::\"My Copy\".mood, E'\\'public.x')"
        );
        assert_eq!(renamed("(t.public.x + 1.5)"), "(t.public.x + 1.5)");
    }
}
