-- What the sender gave for scripts to read: a JSON object, its raw payload left out. NULL: nothing. Goes with the payload.
ALTER TABLE message ADD COLUMN transformations_params TEXT;
