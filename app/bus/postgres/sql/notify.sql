-- Send a notification and nothing else. This is the heartbeat while commits have just worked.
-- Parameters: $1 the payload.
-- Returns: one row, as probe.sql does.
-- Called by: append/store.py
SELECT pg_postmaster_start_time()::text || ' ' || d.oid AS place, ARRAY[]::text[] AS denied, pg_notify('abide', $1)
FROM pg_database d WHERE d.datname = current_database()
