//! A YAML document as a tree that knows where each of its values stands.

use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

/// A value. Numbers keep no more than validation needs.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Integer(i64),
    Float,
    Text(String),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl Node {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Integer(_) | Self::Float => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Parses one document.
///
/// # Errors
/// Where and why it is not YAML.
pub(super) fn parse(text: &str) -> Result<Spanned<Node>, (Location, String)> {
    serde_saphyr::from_str::<Spanned<Node>>(text).map_err(|error| {
        let at = error.location().unwrap_or(Location::UNKNOWN);
        let message = error.without_snippet().to_string();
        (at, first_line(&message))
    })
}

/// The first line without the parser's own account of the place, which we print in our form.
fn first_line(message: &str) -> String {
    let line = message.lines().find(|line| !line.trim().is_empty()).unwrap_or("not YAML").trim();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    let line = line.split_once(": ").filter(|(at, _)| at.starts_with("line ")).map_or(line, |(_, rest)| rest);
    line.rsplit_once(" at line ").map_or(line, |(what, _)| what).to_owned()
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(i64::try_from(value).map_or(Node::Float, Node::Integer))
    }

    fn visit_f64<E>(self, _value: f64) -> Result<Node, E> {
        Ok(Node::Float)
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_place() {
        let tree = parse("a: 1\nb:\n  - x\n  - c: true\n").unwrap();
        let Node::Map(entries) = tree.value else { panic!("not a map") };
        assert_eq!((entries[0].0.referenced.line(), entries[0].0.referenced.column()), (1, 1));
        assert_eq!((entries[0].1.referenced.line(), entries[0].1.referenced.column()), (1, 4));
        let Node::List(items) = &entries[1].1.value else { panic!("not a list") };
        assert_eq!((items[0].referenced.line(), items[0].referenced.column()), (3, 5));
        let Node::Map(inner) = &items[1].value else { panic!("not a map") };
        assert_eq!((inner[0].0.referenced.line(), inner[0].0.referenced.column()), (4, 5));
        assert_eq!(inner[0].1.value, Node::Bool(true));
    }

    #[test]
    fn what_is_not_yaml_is_told_with_its_place() {
        let (at, message) = parse("a: [1, 2\nb: 3\n").unwrap_err();
        assert!(at.line() >= 1, "{at:?}");
        assert!(!message.is_empty() && !message.contains('\n'), "{message}");
    }
}
