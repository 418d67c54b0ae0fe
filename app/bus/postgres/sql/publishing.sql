-- Say whether a transaction that has published is still under way: it holds this lock until its end. A prepared
-- transaction has no process id and does not count: it may stay prepared for days, and workers then look into the
-- outbox on a timer. Both sides of each operator have the same type. Where every role may create operators in the
-- schema public, one of theirs could match other types better.
-- Parameters: none.
-- Returns: one boolean.
-- Called by: listen/listen_session.py
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'relation' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND relation = 'abide.outbox'::regclass::oid AND mode = 'RowExclusiveLock' AND pid <> pg_backend_pid()
)
