//! Whether the text of a type is a type and nothing else. It comes from the other end, and stands in statements unquoted.

/// Words that may follow a type's name.
const WORDS: [&str; 22] = [
    "precision",
    "varying",
    "with",
    "without",
    "time",
    "zone",
    "local",
    "year",
    "month",
    "day",
    "hour",
    "minute",
    "second",
    "to",
    "big",
    "int",
    "integer",
    "char",
    "character",
    "text",
    "unsigned",
    "signed",
];

/// A name, perhaps qualified and quoted; then known words, one list of numbers and words in parentheses, brackets.
pub(super) fn is_plain(text: &str) -> bool {
    // SQLite has columns without a type.
    text.is_empty() || read(text).is_some()
}

fn read(text: &str) -> Option<()> {
    let mut rest = name(text)?;
    while let Some(after) = rest.strip_prefix('.') {
        rest = name(after)?;
    }
    let mut had_list = false;
    loop {
        rest = rest.trim_start_matches(' ');
        if rest.is_empty() {
            return Some(());
        } else if let Some(after) = rest.strip_prefix('(') {
            let (list, after) = after.split_once(')').filter(|_| !had_list)?;
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ',' | ' ' | '_' | '-');
            if !list.chars().all(allowed) || list.contains("--") {
                return None;
            }
            (had_list, rest) = (true, after);
        } else if let Some(after) = rest.strip_prefix('[') {
            let (size, after) = after.split_once(']')?;
            size.chars().all(|c| c.is_ascii_digit()).then_some(())?;
            rest = after;
        } else {
            let after = plain_name(rest)?;
            let word = rest[..rest.len() - after.len()].to_ascii_lowercase();
            WORDS.contains(&word.as_str()).then_some(())?;
            rest = after;
        }
    }
}

/// What follows a name.
fn name(text: &str) -> Option<&str> {
    let Some(quoted) = text.strip_prefix('"') else { return plain_name(text) };
    let mut rest = quoted;
    loop {
        let (inside, after) = rest.split_once('"')?;
        if inside.contains('\0') {
            return None;
        }
        match after.strip_prefix('"') {
            Some(after) => rest = after,
            None => return Some(after),
        }
    }
}

fn plain_name(text: &str) -> Option<&str> {
    let allowed = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let end = text.find(|c| !allowed(c)).unwrap_or(text.len());
    text.starts_with(|c: char| c.is_alphabetic() || c == '_').then(|| &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_from_statements() {
        for plain in [
            "",
            "integer",
            "numeric(10,2)",
            "numeric(5,-2)",
            "double precision",
            "character varying(40)",
            "timestamp(3) with time zone",
            "time without time zone",
            "interval day to second(3)",
            "text[]",
            "int[][3]",
            "public.mood",
            "\"My Schema\".\"odd; \"\"type\"",
            "geometry(Point,4326)",
            "UNSIGNED BIG INT",
            "VARCHAR(255)",
            "\"char\"",
            "bit varying(5)",
        ] {
            assert!(is_plain(plain), "{plain}");
        }
        for other in [
            "int; DROP TABLE x",
            "int DEFAULT f()",
            "int) ; --",
            "int -- x",
            "int(1--)",
            "int/**/",
            "int CHECK (true)",
            "int(1)(2)",
            "\"open",
            "int'",
            "1int",
            "int[(]",
            "text COLLATE \"C\"",
            "int, more int",
            "int(f(1))",
            "a..b",
            " ",
            "int REFERENCES t",
            "int NOT NULL",
        ] {
            assert!(!is_plain(other), "{other}");
        }
    }
}
