-- Delete rows of the log that no history shows any more.
-- Parameters: $1 channels; $2 for each, the size of its history, in messages; $3 its ttl, in ms; $4 the most rows to
--     delete.
-- Returns: how many rows were deleted.
-- Called by: retention.py
SELECT abide.trim($1, $2, $3, $4)
