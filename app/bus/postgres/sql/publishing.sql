-- Whether a transaction is under way that has published: it holds this lock until its end. The types on both
-- sides of an operator are the same: where every role may put operators into public, theirs might fit better.
-- One that is prepared has no process id and is not waited for: it may stay so for days, and workers look by themselves.
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'relation' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND relation = 'abide.outbox'::regclass::oid AND mode = 'RowExclusiveLock' AND pid <> pg_backend_pid()
)
