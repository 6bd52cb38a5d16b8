-- The keys of the newest messages, appended in sorted runs. They are merged into `event_key` and `idempotency_key` many at a time: there, each
-- one is likely to lie in a page of its own.
CREATE TABLE key_run (
    run INTEGER NOT NULL,             -- the sequence of a message: every message of the run is at it or after it, of earlier runs before it
    key BLOB NOT NULL,
    digest BLOB,                      -- of an idempotency key; NULL: an event id or a received request
    message INTEGER NOT NULL,
    PRIMARY KEY (run, key)
) WITHOUT ROWID;
