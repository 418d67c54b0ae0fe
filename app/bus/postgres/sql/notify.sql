-- $1 payload. The notification alone, where commits have just worked; returns what probe.sql does.
SELECT pg_postmaster_start_time()::text || ' ' || d.oid AS place, ARRAY[]::text[] AS denied, pg_notify('abide', $1)
FROM pg_database d WHERE d.datname = current_database()
