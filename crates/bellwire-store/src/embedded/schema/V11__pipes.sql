-- Readers of pipe endpoints that have a name, and how far each has come.
CREATE TABLE consumer (
    endpoint INTEGER NOT NULL,
    name TEXT NOT NULL,
    cursor INTEGER NOT NULL,          -- it has read every message up to and including this one
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (endpoint, name)
) WITHOUT ROWID;
-- NULL: somebody wants it not to be sent any more. Otherwise it is delivered: the name of the consumer that has read past it.
ALTER TABLE cancelling ADD COLUMN read_by TEXT;
