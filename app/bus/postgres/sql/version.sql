-- Read the version of the schema.
-- Parameters: none.
-- Returns: one integer; no row when the table is empty.
-- Called by: migrations.py
SELECT version FROM abide.installation
