-- $1 payload. A commit without a message, and its notification. What refuses or holds up a commit or a drain does so
-- here, too: a lock, a right, a setting, a standby; for the trim locks a row, which is written, and so the commit waits as
-- one with messages does. Returns what server.sql does, and the functions that it does not call and that this role may not call.
SELECT pg_postmaster_start_time()::text || ' ' || d.oid AS place,
    (SELECT count(*) FROM abide.store('{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')) AS appended,
    (SELECT o.drained FROM abide.drain(0, NULL) o) AS drained,
    CASE WHEN has_function_privilege('abide.trim(text[],bigint[],bigint[],integer)', 'EXECUTE')
        THEN abide.trim('{}', '{}', '{}', 0) END AS trimmed,
    ARRAY(
        SELECT p.proname::text
        FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'abide'::regnamespace::oid AND p.proname IN ('store_one', 'enter', 'lead', 'stay_awake')
        GROUP BY p.proname
        HAVING NOT bool_or(has_function_privilege(p.oid, 'EXECUTE'))
        ORDER BY p.proname
    ) AS denied,
    pg_notify('abide', $1)
FROM pg_database d WHERE d.datname = current_database()
