-- The sender's place in a trace: the trace's id, its span's id, and whether it records it. 25 bytes; NULL without.
ALTER TABLE message ADD COLUMN trace BLOB;
