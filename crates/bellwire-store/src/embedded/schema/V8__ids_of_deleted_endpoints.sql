-- The public id of an endpoint that is gone, for the attempts that were made to it. NULL: deleted before this step.
ALTER TABLE deleted_endpoint ADD COLUMN id BLOB;
