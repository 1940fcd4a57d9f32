//! `${NAME}` and `${NAME:-default}` inside a text value. `$$` stands for a single `$`.
//!
//! References are filled in after the YAML is parsed, so that nothing in a variable can change the file's structure.

/// Where variables come from.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A reference that cannot be filled in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadReference {
    /// Where it begins in the text, in bytes.
    pub(crate) offset: usize,
    /// What is wrong with it.
    pub(crate) message: String,
    /// What to do.
    pub(crate) remedy: String,
}

/// The environment of this process.
pub(crate) fn of_process(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether a text has anything to fill in.
pub(crate) fn has_reference(text: &str) -> bool {
    text.contains("${") || text.contains("$$")
}

/// Fills in all references.
///
/// # Errors
/// Every reference that is malformed or names a variable that is not set.
pub(crate) fn fill(text: &str, lookup: Lookup<'_>) -> Result<String, Vec<BadReference>> {
    let (mut filled, mut bad, mut at) = (String::new(), Vec::new(), 0);
    while let Some(found) = text[at..].find('$') {
        let dollar = at + found;
        filled.push_str(&text[at..dollar]);
        let rest = &text[dollar + 1..];
        if rest.starts_with('$') {
            filled.push('$');
            at = dollar + 2;
        } else if let Some(body) = rest.strip_prefix('{') {
            let length = body.find('}').unwrap_or(body.len());
            match value_of(&body[..length], length < body.len(), lookup) {
                Ok(value) => filled.push_str(&value),
                Err((message, remedy)) => bad.push(BadReference { offset: dollar, message, remedy }),
            }
            at = (dollar + 2 + length + 1).min(text.len());
        } else {
            filled.push('$');
            at = dollar + 1;
        }
    }
    filled.push_str(&text[at..]);
    if bad.is_empty() { Ok(filled) } else { Err(bad) }
}

fn value_of(body: &str, closed: bool, lookup: Lookup<'_>) -> Result<String, (String, String)> {
    let (name, default) = body.split_once(":-").map_or((body, None), |(name, default)| (name, Some(default)));
    let starts_well = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !closed || !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err((
            "this is not a reference to an environment variable".to_owned(),
            "write ${NAME} or ${NAME:-default}; for a dollar sign itself write $$".to_owned(),
        ));
    }
    let value = lookup(name);
    match default {
        Some(default) => Ok(value.filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned())),
        None => value.ok_or_else(|| {
            (
                format!("environment variable `{name}` is not set"),
                format!("set it, or give a default: ${{{name}:-…}}"),
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "USER" => Some("ada".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${USER}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn references_defaults_and_dollars() {
        let fill = |text| fill(text, &lookup);
        assert_eq!(fill("a ${USER} b").unwrap(), "a ada b");
        assert_eq!(fill("${NONE:-x}${EMPTY:-y}${USER:-z}").unwrap(), "xyada");
        assert_eq!(fill("${EMPTY}|$5|$${USER}|$").unwrap(), "|$5|${USER}|$");
        assert_eq!(fill("${TRICK}").unwrap(), "${USER}", "a value is never filled in again");
    }

    #[test]
    fn every_bad_reference_is_told_with_its_offset() {
        let bad = fill("${NONE} ${1} é${OPEN", &lookup).unwrap_err();
        assert_eq!(bad.iter().map(|bad| bad.offset).collect::<Vec<_>>(), [0, 8, 15]);
        assert!(bad[0].message.contains("`NONE` is not set"));
    }
}
