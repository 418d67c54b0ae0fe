-- Move the oldest rows of the outbox into the log.
-- Parameters: $1 the most rows to move; $2 whether notifications carry messages, NULL for no notification.
-- Returns: one row: how many rows were moved, NULL when another worker is moving them; the channels, and how many
--     messages each got.
-- Called by: append/outbox.py
SELECT * FROM abide.drain($1, $2)
