-- What a run was: sync, diff.
ALTER TABLE runs ADD COLUMN kind TEXT NOT NULL DEFAULT 'sync';
