-- Times are milliseconds since 1970 UTC. URLs may hold passwords: the file is readable by its owner only.

CREATE TABLE pipelines (
    name                TEXT PRIMARY KEY,
    source_url          TEXT NOT NULL,
    destination_url     TEXT NOT NULL,
    source_address      TEXT NOT NULL,
    destination_address TEXT NOT NULL,
    config              TEXT NOT NULL,
    updated_at          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: the number of a forgotten run never comes back.
CREATE TABLE runs (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    pipeline      TEXT NOT NULL,
    host          TEXT NOT NULL,
    boot_id       TEXT NOT NULL,
    pid           INTEGER NOT NULL,
    process_start INTEGER NOT NULL,
    started_at    INTEGER NOT NULL,
    ended_at      INTEGER,
    outcome       TEXT,
    error         TEXT,
    summary       TEXT
) STRICT;

CREATE INDEX runs_of_pipeline ON runs (pipeline, id);

CREATE TABLE statuses (
    pipeline   TEXT PRIMARY KEY,
    run_id     INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    status     TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Copies for the eye: the checkpoint that counts stands at the destination.
CREATE TABLE checkpoints (
    pipeline   TEXT PRIMARY KEY,
    updated_at INTEGER NOT NULL,
    checkpoint TEXT NOT NULL
) STRICT, WITHOUT ROWID;
