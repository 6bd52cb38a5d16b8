-- What an application and an endpoint may ask for beyond the columns that queries need. NULL: nothing.
ALTER TABLE application ADD COLUMN settings TEXT;   -- JSON
ALTER TABLE endpoint ADD COLUMN shape TEXT;         -- JSON
ALTER TABLE endpoint ADD COLUMN access BLOB;        -- JSON, sealed if there is a main secret
