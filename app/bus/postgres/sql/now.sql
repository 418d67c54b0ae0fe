-- Read the clock of the database.
-- Parameters: none.
-- Returns: milliseconds since 1970.
-- Called by: retention.py
SELECT abide.now_ms()
