-- Say what the session of ours that has waited longest waits for. Of a lock: on which table, and held by whom.
-- Parameters: none.
-- Returns: one row, or none when no session waits.
-- Called by: listen/slow.py
SELECT a.wait_event_type AS kind, a.wait_event AS event, l.relation::regclass::text AS relation,
    b.pid AS blocker, b.application_name AS blocker_name
FROM pg_stat_activity a
LEFT JOIN pg_locks l ON l.pid = a.pid AND NOT l.granted
LEFT JOIN pg_stat_activity b ON b.pid = (pg_blocking_pids(a.pid))[1]
WHERE a.application_name IN ('abide work', 'abide read') AND a.usename = current_user AND a.datname = current_database()
    AND a.state = 'active' AND a.wait_event_type IS NOT NULL
ORDER BY a.query_start
LIMIT 1
