-- Store the messages of one commit, and notify listeners.
-- Parameters: $1 to $11 as abide.store documents them (migrations/0005_epochs.sql).
-- Returns: a row for each key that is known already, and nothing is stored then; else a row for each channel, with its
--     head.
-- Called by: append/commit.py
SELECT known, i, "offset", hash, lineage FROM abide.store($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
