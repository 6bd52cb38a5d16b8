-- JSON: what a broadcast sends, until it has ended.
ALTER TABLE task ADD COLUMN message TEXT;
