-- What is kept about tokens: the registered ones, and what takes the others back.
CREATE TABLE api_token (
    id BLOB PRIMARY KEY,
    organisation TEXT NOT NULL,
    application BLOB,                 -- NULL: all of the organisation
    name TEXT,
    scopes TEXT NOT NULL,             -- JSON array of names
    hint TEXT NOT NULL,               -- the last characters of its text
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    last_used_at INTEGER
) WITHOUT ROWID;
CREATE TABLE token_logout (
    fingerprint BLOB PRIMARY KEY,
    until INTEGER NOT NULL            -- when the token would have ended by itself
) WITHOUT ROWID;
CREATE TABLE token_cutoff (
    application BLOB NOT NULL,
    session TEXT NOT NULL,            -- empty: of all sessions and none
    issued_before INTEGER NOT NULL,   -- a sequence
    starts_at INTEGER NOT NULL,
    PRIMARY KEY (application, session, issued_before, starts_at)
) WITHOUT ROWID;
