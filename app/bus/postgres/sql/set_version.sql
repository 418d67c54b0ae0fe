-- Note the version that a step of the migration has reached.
-- Parameters: $1 the version.
-- Returns: nothing.
-- Called by: migrations.py
UPDATE abide.installation SET version = $1
