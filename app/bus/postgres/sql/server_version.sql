-- Read the version of PostgreSQL.
-- Parameters: none.
-- Returns: a text: 130004 means 13.4.
-- Called by: migrations.py
SELECT current_setting('server_version_num')
