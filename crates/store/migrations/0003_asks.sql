-- Questions of one process to the one that runs a pipeline. A row lives until its answer is read; one that nobody reads any
-- more goes after a day. An answer may hold row values: who asked takes it away.
CREATE TABLE asks (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id   INTEGER NOT NULL,
    asked_at INTEGER NOT NULL,
    ask      TEXT NOT NULL,
    taken_at INTEGER,
    answer   TEXT
) STRICT;

CREATE INDEX asks_of_run ON asks (run_id, id);
