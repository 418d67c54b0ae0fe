-- Say whether a table has no primary key yet. That is so while a dump is restored, since a dump creates the keys last.
-- Parameters: none.
-- Returns: one boolean.
-- Called by: migrations.py
SELECT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'abide' AND c.relkind = 'r'
        AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisprimary)
)
