-- Store one segment of one channel without keys, and notify listeners. A lone message waits 0.1 ms less than with
-- store.sql.
-- Parameters: $1 the channel; $2 how many messages; $3 the body; $4 whether the notification carries it, NULL for no
--     notification.
-- Returns: one text: the head, a space, and the lineage.
-- Called by: append/commit.py
SELECT abide.store_one($1, $2, $3, $4)
