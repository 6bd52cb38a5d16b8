-- How an endpoint gets its messages: JSON, sealed like its secrets. NULL: by push.
ALTER TABLE endpoint ADD COLUMN kind BLOB;
