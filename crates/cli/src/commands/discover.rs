//! `discover`: the tables of a source as Syncline sees them.

use syncline_connectors::registry;
use syncline_core::schema::Carry;
use syncline_core::{Result, Selection, TablePattern, TableSchema};

use crate::args::{DiscoverArgs, GlobalArgs, Output};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::progress::format::count;
use crate::spec;

/// Runs the command.
///
/// # Errors
/// As the source.
pub(crate) async fn run(args: &DiscoverArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let include = args.table.iter().map(|text| TablePattern::new(text)).collect::<Result<_>>()?;
    spec::no_agent(&args.url)?;
    let source = registry::source(&args.url)?;
    let tables = source.discover(&Selection { include, ..Selection::all(Carry::Typed) }).await?;
    match global.output {
        Output::Text => output::to_stdout(&tables.iter().map(render).collect::<String>()),
        Output::Json => tables.iter().for_each(output::to_stdout_line),
    }
    Ok(Exit::DONE)
}

fn render(table: &TableSchema) -> String {
    let key: Vec<_> = table.row_key.iter().map(|&n| table.columns[n].name.as_str()).collect();
    let key = if key.is_empty() { "no row key".to_owned() } else { format!("row key {}", key.join(", ")) };
    let rows = table.rows_estimated.map(|rows| format!(", ~{} rows", count(rows))).unwrap_or_default();
    let width = table.columns.iter().map(|column| column.name.chars().count()).max().unwrap_or_default();
    let mut text = format!("{}  ({key}{rows})\n", table.id);
    for column in &table.columns {
        let null = if column.nullable { "" } else { " not null" };
        text.push_str(format!("  {:width$}  {}{null}", column.name, column.native_type).trim_end());
        text.push('\n');
    }
    text
}
