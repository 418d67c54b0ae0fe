-- Say whether the schema exists.
-- Parameters: none.
-- Returns: one boolean.
-- Called by: migrations.py
SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'abide')
