-- Background tasks: what is to be done, and how far it has come.
CREATE TABLE task (
    sequence INTEGER PRIMARY KEY,
    id_tail BLOB NOT NULL,
    organisation TEXT NOT NULL,
    kind INTEGER NOT NULL,
    application INTEGER,              -- of its endpoint, or of what it purges
    endpoint INTEGER,
    filter TEXT,                      -- JSON: of a bulk replay
    applications TEXT,                -- JSON array of keys: of statistics
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    status INTEGER NOT NULL,          -- 0 running, 1 finished, 2 too large, 3 cancelled
    cursor INTEGER NOT NULL,
    cursor_application INTEGER NOT NULL,
    scanned INTEGER NOT NULL,
    touched INTEGER NOT NULL,
    found TEXT,                       -- JSON: what statistics have found
    updated_at INTEGER NOT NULL
);
CREATE INDEX task_by_organisation ON task (organisation, sequence);
CREATE INDEX task_running ON task (sequence) WHERE status = 0;
CREATE INDEX task_ended ON task (updated_at) WHERE status <> 0;
CREATE INDEX application_by_organisation ON application (organisation, key);

-- What waits of endpoints and is to be ended as cancelled.
CREATE TABLE cancelling (
    number INTEGER PRIMARY KEY,
    endpoint INTEGER NOT NULL,
    before INTEGER NOT NULL,          -- messages before this one
    at INTEGER NOT NULL               -- what was asked for later is not meant
);
ALTER TABLE meta ADD COLUMN ended_cancelled INTEGER NOT NULL DEFAULT 0;
