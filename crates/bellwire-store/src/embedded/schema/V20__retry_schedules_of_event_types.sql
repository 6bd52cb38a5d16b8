-- When failed attempts of an event type's messages are repeated, for endpoints without a schedule of their own: JSON, microseconds.
ALTER TABLE event_type ADD COLUMN retry_schedule TEXT;
