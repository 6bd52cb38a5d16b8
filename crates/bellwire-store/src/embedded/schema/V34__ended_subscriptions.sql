-- Subscriptions at hubs that have ended with us, whatever became of their sources, until their hubs know it.
CREATE TABLE ended_subscription (
    key INTEGER PRIMARY KEY,
    application INTEGER NOT NULL,     -- it may be gone
    ending BLOB NOT NULL              -- JSON, sealed: the callback is the source's own
);
