-- Give a session the settings that every session of ours has, whatever its role or the database has: nothing that was
-- abandoned runs on, no row is hidden without an error, and every transaction has the same isolation. A setting that
-- this server does not know or does not allow is left out. Behind a pooler this fails with AB001, since the session
-- that it would change belongs to others as well.
-- Parameters: {pid} the process id that the session had at its start.
-- Returns: nothing.
-- Called by: sessions/session.py
DO $$
DECLARE
    setting text[];
BEGIN
    IF pg_backend_pid() <> {pid} THEN
        RAISE EXCEPTION 'a pooler is between this session and the server' USING ERRCODE = 'AB001';
    END IF;
    FOREACH setting SLICE 1 IN ARRAY ARRAY[
        ['lock_timeout', '2s'],
        ['idle_in_transaction_session_timeout', '10s'],
        ['transaction_timeout', '15s'],
        ['idle_session_timeout', '0'],
        ['client_connection_check_interval', '2s'],
        ['tcp_user_timeout', '10s'],
        ['tcp_keepalives_idle', '5'],
        ['tcp_keepalives_interval', '2'],
        ['tcp_keepalives_count', '3'],
        ['default_transaction_isolation', 'read committed'],
        ['row_security', 'off']
    ] LOOP
        BEGIN
            PERFORM set_config(setting[1], setting[2], false);
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END LOOP;
END $$
