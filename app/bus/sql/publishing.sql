-- Whether a transaction is under way that has published: it holds this lock until its end.
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'relation' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND relation = 'abide.outbox'::regclass AND mode = 'RowExclusiveLock' AND pid <> pg_backend_pid()
)
