-- Keep other roles' functions out of a migration: where every role may create them in public, none is to run with our
-- rights.
-- Parameters: none.
-- Returns: nothing.
-- Called by: migrations.py
SET LOCAL search_path = pg_catalog, pg_temp
