-- Open a new epoch, unless the present one is certified and is not the one to end.
-- Parameters: $1 the name of the epoch to end whatever its certificate says, or NULL.
-- Returns: the name of the present epoch.
-- Called by: log_reads.py, listen/heads.py
SELECT abide.enter($1)
