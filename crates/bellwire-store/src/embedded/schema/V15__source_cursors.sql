-- How far sources have got that fetch their messages themselves.
CREATE TABLE source_cursor (
    source INTEGER PRIMARY KEY,
    position TEXT NOT NULL,           -- in the words of the source's way
    moved_at INTEGER NOT NULL
);
