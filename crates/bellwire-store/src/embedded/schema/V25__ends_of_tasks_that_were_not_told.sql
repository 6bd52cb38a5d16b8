-- Whether somebody is still to be told how the task ended: from its creation on.
ALTER TABLE task ADD COLUMN untold INTEGER NOT NULL DEFAULT 0;
UPDATE task SET untold = 1 WHERE status = 0;
CREATE INDEX task_untold ON task (sequence) WHERE untold = 1;
