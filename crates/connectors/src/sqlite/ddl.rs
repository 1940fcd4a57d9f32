//! Reading SQLite's own DDL text, as far as its pragmas do not say what stands in it: the expressions and the predicate
//! of an index, and a table's definition without some of its columns.
//!
//! This is a tokenizer and a search for commas and brackets, not a parser: the text comes out of `sqlite_schema`, so
//! SQLite has parsed it already.

use std::collections::BTreeSet;
use std::ops::Range;

use syncline_core::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A bare word: a keyword, a name or a number.
    Word,
    /// A name or text in quotes of any of the four kinds.
    Quoted,
    /// One character of anything else.
    Mark,
}

/// A token and where it stands.
#[derive(Debug, Clone)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
    at: Range<usize>,
}

impl Token<'_> {
    fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(word)
    }

    fn is_mark(&self, mark: &str) -> bool {
        self.kind == Kind::Mark && self.text == mark
    }

    /// The name this token writes, were it a name.
    fn name(&self) -> String {
        let inner = || &self.text[1..self.text.len().saturating_sub(1).max(1)];
        match (self.kind, self.text.as_bytes().first()) {
            (Kind::Quoted, Some(b'[')) => inner().to_owned(),
            (Kind::Quoted, Some(&quote)) => {
                let quote = char::from(quote).to_string();
                inner().replace(&quote.repeat(2), &quote)
            }
            _ => self.text.to_owned(),
        }
    }

    fn names(&self, column: &str) -> bool {
        self.kind != Kind::Mark && self.name().eq_ignore_ascii_case(column)
    }
}

/// The tokens of a statement; white space and comments are none.
fn tokens(sql: &str) -> Vec<Token<'_>> {
    let bytes = sql.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let kind = match bytes[at] {
            b'-' if bytes.get(at + 1) == Some(&b'-') => {
                at += bytes[at..].iter().position(|&b| b == b'\n').map_or(bytes.len() - at, |n| n + 1);
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                at = sql.get(at + 2..).and_then(|rest| rest.find("*/")).map_or(bytes.len(), |n| at + n + 4);
                continue;
            }
            b if b.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'[' => {
                at += bytes[at..].iter().position(|&b| b == b']').map_or(bytes.len() - at, |n| n + 1);
                Kind::Quoted
            }
            quote @ (b'\'' | b'"' | b'`') => {
                at = end_of_quoted(bytes, at, quote);
                Kind::Quoted
            }
            b if is_word(b) => {
                at += bytes[at..].iter().position(|&b| !is_word(b)).unwrap_or(bytes.len() - at);
                Kind::Word
            }
            _ => {
                at += 1;
                Kind::Mark
            }
        };
        tokens.push(Token { kind, text: &sql[start..at], at: start..at });
    }
    tokens
}

/// Every byte of a character beyond ASCII is part of a word, as in SQLite itself; so no character is ever cut.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

fn end_of_quoted(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        if bytes[at] != quote {
            at += 1;
        } else if bytes.get(at + 1) == Some(&quote) {
            at += 2;
        } else {
            return at + 1;
        }
    }
    bytes.len()
}

/// The tokens between the first bracket and the one that closes it, cut at its commas, and what follows.
struct Bracket<'t, 's> {
    items: Vec<&'t [Token<'s>]>,
    rest: &'t [Token<'s>],
}

fn first_bracket<'t, 's>(tokens: &'t [Token<'s>]) -> Option<Bracket<'t, 's>> {
    let open = tokens.iter().position(|t| t.is_mark("("))?;
    let (mut depth, mut begin, mut items) = (0, open + 1, Vec::new());
    for (at, token) in tokens.iter().enumerate().skip(open) {
        if token.is_mark("(") {
            depth += 1;
        } else if token.is_mark(",") && depth == 1 {
            items.push(&tokens[begin..at]);
            begin = at + 1;
        } else if token.is_mark(")") {
            depth -= 1;
            if depth == 0 {
                items.push(&tokens[begin..at]);
                return Some(Bracket { items, rest: &tokens[at + 1..] });
            }
        }
    }
    None
}

fn text_of<'s>(sql: &'s str, tokens: &[Token<'s>]) -> &'s str {
    match (tokens.first(), tokens.last()) {
        (Some(first), Some(last)) => &sql[first.at.start..last.at.end],
        _ => "",
    }
}

/// What a `CREATE INDEX` statement says: its terms without collation and direction, and its predicate.
pub(super) struct IndexText {
    pub(super) terms: Vec<String>,
    pub(super) predicate: Option<String>,
}

/// Reads a `CREATE INDEX` statement; `None` if it is none.
pub(super) fn index_text(sql: &str) -> Option<IndexText> {
    let tokens = tokens(sql);
    let on = tokens.iter().position(|token| token.is_word("ON"))?;
    let bracket = first_bracket(&tokens[on..])?;
    let terms = bracket.items.iter().map(|term| text_of(sql, bare_term(term)).to_owned()).collect();
    let predicate = match bracket.rest.split_first() {
        Some((first, predicate)) if first.is_word("WHERE") => Some(text_of(sql, predicate).to_owned()),
        _ => None,
    };
    Some(IndexText { terms, predicate })
}

fn bare_term<'t, 's>(mut term: &'t [Token<'s>]) -> &'t [Token<'s>] {
    if let Some((last, before)) = term.split_last()
        && (last.is_word("ASC") || last.is_word("DESC"))
        && !before.is_empty()
    {
        term = before;
    }
    match term {
        [before @ .., collate, _] if collate.is_word("COLLATE") && !before.is_empty() => before,
        _ => term,
    }
}

/// Whether a statement mentions one of these columns.
pub(super) fn mentions(sql: &str, columns: &BTreeSet<&str>) -> bool {
    tokens(sql).iter().any(|token| columns.iter().any(|column| token.names(column)))
}

/// A `CREATE TABLE` statement without some of its columns, and without the constraints of the table and the generated
/// columns that mention them.
pub(super) fn without_columns(sql: &str, columns: &BTreeSet<&str>) -> Result<String> {
    if columns.is_empty() {
        return Ok(sql.to_owned());
    }
    let tokens = tokens(sql);
    let bracket = first_bracket(&tokens)
        .ok_or_else(|| Error::configuration("columns of a table without a column list cannot be excluded"))?;
    let mentioned = |item: &[Token<'_>]| item.iter().any(|t| columns.iter().any(|c| t.names(c)));
    let kept: Vec<&str> = bracket
        .items
        .iter()
        .filter(|item| match item.split_first() {
            Some((first, rest)) if is_constraint(first) || is_generated(rest) => !mentioned(item),
            Some((first, _)) => !columns.iter().any(|column| first.names(column)),
            None => true,
        })
        .map(|item| text_of(sql, item))
        .collect();
    let open = tokens.iter().find(|token| token.is_mark("(")).map_or(0, |token| token.at.end);
    Ok(format!("{}{}) {}", &sql[..open], kept.join(", "), text_of(sql, bracket.rest)))
}

fn is_constraint(first: &Token<'_>) -> bool {
    ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"].iter().any(|word| first.is_word(word))
}

fn is_generated(definition: &[Token<'_>]) -> bool {
    definition.windows(2).any(|pair| pair[0].is_word("AS") && pair[1].is_mark("("))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_and_predicate_of_an_index() {
        let index = index_text(
            "CREATE UNIQUE INDEX \"on (x)\" ON \"t\"(lower(a, ',)') COLLATE NOCASE DESC, [b] asc, c -- ,d\n) WHERE a > '(' AND b",
        )
        .unwrap();
        assert_eq!(index.terms, ["lower(a, ',)')", "[b]", "c"]);
        assert_eq!(index.predicate.as_deref(), Some("a > '(' AND b"));
        assert!(index_text("CREATE INDEX i ON t(a)").unwrap().predicate.is_none());
    }

    #[test]
    fn a_definition_loses_columns_and_what_mentions_them() {
        let sql =
            "CREATE TABLE \"a,(\"(id INTEGER PRIMARY KEY, 'ssn' TEXT CHECK(ssn <> ','), /* ssn, */ n TEXT,
            up TEXT AS (upper(\"SSN\")), CONSTRAINT u UNIQUE(n, ssn), UNIQUE(n)) STRICT";
        let cut = without_columns(sql, &BTreeSet::from(["ssn"])).unwrap();
        let conn = rusqlite::Connection::open_in_memory().unwrap();
        conn.execute_batch(&cut).unwrap();
        let columns: Vec<String> = conn
            .prepare("SELECT name FROM pragma_table_xinfo('a,(')")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(columns, ["id", "n"]);
        assert!(cut.contains("STRICT") && !cut.to_lowercase().contains("ssn"), "{cut}");
    }

    #[test]
    fn mentions_reads_names_in_all_quotes() {
        for sql in ["x(a)", "x(\"A\")", "x([a])", "x(`a`)"] {
            assert!(mentions(sql, &BTreeSet::from(["a"])), "{sql}");
        }
        assert!(!mentions("x('it''s', b) -- a", &BTreeSet::from(["a"])));
    }

    #[test]
    fn broken_text_does_not_panic() {
        for sql in ["CREATE TABLE", "\"", "'", "[", "/*", "--", "((", "é\"ü", "ON ("] {
            let _ = index_text(sql);
            let _ = without_columns(sql, &BTreeSet::from(["a"]));
        }
    }
}
