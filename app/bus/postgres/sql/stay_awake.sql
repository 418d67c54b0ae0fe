-- Tell publishers in SQL that a worker is awake, so that they need not ring.
-- Parameters: $1 for how many milliseconds; 0 says that none is.
-- Returns: nothing.
-- Called by: listen/listen_session.py
SELECT abide.stay_awake($1)
