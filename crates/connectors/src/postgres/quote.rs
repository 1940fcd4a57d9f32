//! Identifiers and literals in PostgreSQL's quoting; nothing reaches SQL text any other way.

use syncline_core::TableId;

/// A quoted identifier.
pub(crate) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A quoted string literal, whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// A quoted, qualified table name.
pub(crate) fn table(id: &TableId) -> String {
    format!("{}.{}", ident(&id.schema), ident(&id.name))
}

/// Quoted identifiers, separated by commas.
pub(crate) fn idents<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(ident).collect::<Vec<_>>().join(", ")
}

/// A user's query as a relation of a FROM clause. On lines of its own: it may end in a comment.
pub(crate) fn query(sql: &str) -> String {
    let sql = sql.trim_end_matches(|letter: char| letter == ';' || letter.is_whitespace());
    format!("(\n{sql}\n) AS query")
}

/// All that a user's query returns.
pub(crate) fn all_of_query(sql: &str) -> String {
    format!("SELECT * FROM {}", query(sql))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_inside_their_quotes() {
        assert_eq!(ident("a\"; drop table x; --"), "\"a\"\"; drop table x; --\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(query("SELECT 1 -- one\n ; "), "(\nSELECT 1 -- one\n) AS query");
        assert_eq!(literal("\\'"), " E'\\\\'''");
    }
}
