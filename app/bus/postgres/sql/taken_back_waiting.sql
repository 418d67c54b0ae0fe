-- Say what was taken back by transactions that have committed, and is not in the log yet.
-- Parameters: none.
-- Returns: one row: when the oldest of it was published, and when the newest; NULLs where nothing waits.
-- Called by: log_reads.py
SELECT min(o.published) AS oldest, max(o.published) AS newest FROM abide.outbox o WHERE o.channel = '$access'
