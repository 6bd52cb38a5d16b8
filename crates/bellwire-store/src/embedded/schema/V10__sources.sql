-- Sources: URLs at which others' webhooks come in.
CREATE TABLE source (
    key INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    organisation TEXT NOT NULL,
    application INTEGER NOT NULL,
    uid TEXT,
    name TEXT NOT NULL,
    disabled INTEGER NOT NULL,
    settings TEXT NOT NULL,           -- JSON
    secrets BLOB NOT NULL,            -- JSON: the token and what verifies; sealed if there is a main secret
    metadata TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
CREATE INDEX source_by_application ON source (application);
-- What a message was made of beside its payload, if it came in at a source. NULL: it did not. Goes with the payload.
ALTER TABLE message ADD COLUMN received BLOB;
-- Requests at sources that made no message: the newest few of each.
CREATE TABLE kept_request (
    source INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    id_tail BLOB NOT NULL,
    outcome TEXT NOT NULL,            -- JSON
    status INTEGER NOT NULL,
    received BLOB NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (source, sequence)
) WITHOUT ROWID;
