-- Times are microseconds since the Unix epoch; sequences are as bellwire-model's `Sequence` has them.

-- One row, written with every commit.
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    newest INTEGER NOT NULL,          -- the newest sequence that was committed to either log
    upkeep_newest INTEGER NOT NULL,   -- the newest sequence that upkeep gave to an attempt row of its own
    watermark INTEGER NOT NULL,       -- every delivery of a message below it has ended or is in the waiting room
    indexed INTEGER NOT NULL,         -- the indexes hold both logs up to and including it
    floor INTEGER NOT NULL,           -- messages below it are gone, or going
    last_key INTEGER NOT NULL,        -- the greatest key ever given to an application or an endpoint
    accepted INTEGER NOT NULL,
    matched INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    ended_exhausted INTEGER NOT NULL,
    ended_aborted INTEGER NOT NULL,
    ended_expired INTEGER NOT NULL,
    ended_endpoint_deleted INTEGER NOT NULL,
    ended_resend_failed INTEGER NOT NULL
);
INSERT INTO meta VALUES (1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);

-- The message log. The payload stands last, so that a scan never touches it.
CREATE TABLE message (
    sequence INTEGER PRIMARY KEY,
    id_tail BLOB NOT NULL,
    application INTEGER NOT NULL,
    event_type TEXT NOT NULL,
    fan_out BLOB NOT NULL,            -- the endpoints' keys: varints, each the difference to the one before
    expires_at INTEGER NOT NULL,
    deliver_at INTEGER,
    event_id TEXT,
    channels TEXT,                    -- JSON array; NULL if empty
    tags TEXT,                        -- JSON array; NULL if empty
    content_type TEXT,                -- NULL: application/json
    idempotency_key BLOB,
    idempotency_digest BLOB,
    event_key BLOB,
    payload BLOB                      -- NULL once expired or expunged
);

-- The attempt log.
CREATE TABLE attempt (
    sequence INTEGER PRIMARY KEY,
    id_tail BLOB NOT NULL,
    message INTEGER NOT NULL,
    endpoint INTEGER NOT NULL,
    application INTEGER NOT NULL,
    number INTEGER NOT NULL,          -- from 1; 0: ended without an exchange
    manual INTEGER NOT NULL,
    after INTEGER NOT NULL,           -- 0 delivered, 1 waiting, 16 and above: ended, the reason's code + 16
    due INTEGER,                      -- with after = 1
    status INTEGER,                   -- the HTTP status; below zero: the failure's code, -1 - code; NULL: no exchange
    started_at INTEGER,
    duration_us INTEGER,
    url TEXT,                         -- NULL: a row of upkeep's own, which is in the indexes from the start
    directive INTEGER,                -- 0 disable, 1 abort the message
    retry_after_us INTEGER,
    retry_at INTEGER,
    body BLOB
);

-- The waiting room.
CREATE TABLE waiting (
    endpoint INTEGER NOT NULL,
    message INTEGER NOT NULL,
    due INTEGER NOT NULL,
    next INTEGER NOT NULL,
    manual INTEGER NOT NULL,
    PRIMARY KEY (endpoint, message)
) WITHOUT ROWID;
CREATE INDEX waiting_by_due ON waiting (endpoint, due, message);

-- Indexes, filled in sorted slices a moment behind the logs.
CREATE TABLE message_by_application (
    application INTEGER NOT NULL,
    message INTEGER NOT NULL,
    event_type INTEGER NOT NULL,      -- a hash: skips most rows of other types
    marks INTEGER NOT NULL,           -- a bit for each channel and tag: skips most rows without them
    PRIMARY KEY (application, message)
) WITHOUT ROWID;
CREATE TABLE delivery_by_endpoint (
    endpoint INTEGER NOT NULL,
    message INTEGER NOT NULL,
    event_type INTEGER NOT NULL,
    marks INTEGER NOT NULL,
    PRIMARY KEY (endpoint, message)
) WITHOUT ROWID;
CREATE TABLE attempt_by_delivery (
    message INTEGER NOT NULL,
    endpoint INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    number INTEGER NOT NULL,
    after INTEGER NOT NULL,
    status INTEGER,
    PRIMARY KEY (message, endpoint, attempt)
) WITHOUT ROWID;
CREATE TABLE attempt_by_endpoint (
    endpoint INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    message INTEGER NOT NULL,
    status INTEGER,
    PRIMARY KEY (endpoint, attempt)
) WITHOUT ROWID;
CREATE TABLE idempotency_key (
    bucket INTEGER NOT NULL,          -- of the message's time; whole buckets are dropped
    key BLOB NOT NULL,
    digest BLOB NOT NULL,
    message INTEGER NOT NULL,
    PRIMARY KEY (bucket, key)
) WITHOUT ROWID;
CREATE TABLE event_key (
    key BLOB PRIMARY KEY,
    message INTEGER NOT NULL
) WITHOUT ROWID;
-- Messages whose payload goes before they do.
CREATE TABLE expiring (
    expires_at INTEGER NOT NULL,
    message INTEGER NOT NULL,
    PRIMARY KEY (expires_at, message)
) WITHOUT ROWID;

-- Deliveries to endpoints that had not matched: resends on somebody's word.
CREATE TABLE added_delivery (
    message INTEGER NOT NULL,
    endpoint INTEGER NOT NULL,
    PRIMARY KEY (message, endpoint)
) WITHOUT ROWID;

CREATE TABLE lease (
    partition INTEGER PRIMARY KEY,
    fence INTEGER NOT NULL
);

CREATE TABLE application (
    key INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    organisation TEXT NOT NULL,
    uid TEXT,
    name TEXT NOT NULL,
    throttle_rate INTEGER,
    metadata TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
CREATE TABLE endpoint (
    key INTEGER PRIMARY KEY,
    application INTEGER NOT NULL,
    id BLOB NOT NULL,
    uid TEXT,
    url TEXT NOT NULL,
    description TEXT NOT NULL,
    disabled INTEGER,                 -- 0 by its user, 1 by the receiver, 2 for its failures
    event_types TEXT,
    channels TEXT,
    throttle_rate INTEGER,
    fifo INTEGER NOT NULL,
    secrets BLOB NOT NULL,            -- JSON, sealed if there is a main secret
    headers TEXT NOT NULL,
    retry_schedule TEXT,              -- JSON array of microseconds
    metadata TEXT NOT NULL,
    failing_since INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
CREATE INDEX endpoint_by_application ON endpoint (application);
CREATE TABLE deleted_endpoint (
    key INTEGER PRIMARY KEY
);
CREATE TABLE event_type (
    organisation TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    archived INTEGER NOT NULL,
    deprecated INTEGER NOT NULL,
    schemas TEXT,
    feature_flags TEXT NOT NULL,
    group_name TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (organisation, name)
) WITHOUT ROWID;
CREATE TABLE kept_answer (
    key BLOB PRIMARY KEY,
    digest BLOB NOT NULL,
    status INTEGER NOT NULL,
    body BLOB NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX kept_answer_by_end ON kept_answer (expires_at);
