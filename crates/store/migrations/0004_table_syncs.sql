-- What is remembered of a table that is kept equal over requests: the last known state of its far side, places, costs, keys of
-- rows that were refused. JSON of whoever wrote it. Losing it costs requests only.
CREATE TABLE table_syncs (
    pipeline   TEXT NOT NULL,
    schema     TEXT NOT NULL,
    name       TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    memory     TEXT NOT NULL,
    PRIMARY KEY (pipeline, schema, name)
) STRICT, WITHOUT ROWID;
