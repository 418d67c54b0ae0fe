-- $1 payload. A commit without a message, and its notification. What refuses or holds up a commit or a drain does so
-- here, too: a lock, a right, a setting, a standby; for the trim locks a row, which is written, and so the commit waits for
-- standbys as one with messages does. Where there are none it is left out: a flush costs more than all the rest. Returns
-- what server.sql does, and the functions that it does not call and that this role may not call.
SELECT pg_postmaster_start_time()::text || ' ' || d.oid AS place,
    (SELECT count(*) FROM abide.store('{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')) AS appended,
    (SELECT o.drained FROM abide.drain(0, NULL) o) AS drained,
    CASE WHEN current_setting('synchronous_standby_names', true) <> ''
            AND has_function_privilege('abide.trim(text[],bigint[],bigint[],integer)', 'EXECUTE')
        THEN abide.trim('{}', '{}', '{}', 0) END AS trimmed,
    ARRAY(
        SELECT split_part(f.name, '(', 1)
        FROM unnest('{"enter(text)",lead(integer),stay_awake(integer),"store_one(text,integer,text,boolean)"}'::text[]) f(name)
        WHERE NOT has_function_privilege(to_regprocedure('abide.' || f.name)::oid, 'EXECUTE')
    ) AS denied,
    pg_notify('abide', $1)
FROM pg_database d WHERE d.datname = current_database()
