-- Say whether the schema holds a table. to_regclass() would answer from a cache, which may not know yet what another
-- session has just created.
-- Parameters: none.
-- Returns: one boolean.
-- Called by: migrations.py
SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'abide')
