-- Create the schema. An administrator may have created it before, for a role that may create none.
-- Parameters: none.
-- Returns: nothing.
-- Called by: migrations.py
CREATE SCHEMA abide
