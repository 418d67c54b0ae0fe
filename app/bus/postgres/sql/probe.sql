-- Commit without a message, and send a notification. Whatever refuses or holds up a commit or a move of the outbox does
-- so here, too: a lock, a right, a setting, a standby. Where there are standbys, abide.trim locks a row: that writes,
-- so the commit waits for them as one with messages does. Elsewhere that is left out, because a flush costs more than
-- all the rest.
-- Parameters: $1 the payload.
-- Returns: one row: which database this is, as in server.sql; and the functions that this statement does not call and
--     that this role may not call.
-- Called by: append/store.py
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
