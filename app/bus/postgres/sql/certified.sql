-- Say whether the present epoch is certified.
-- Parameters: none.
-- Returns: one boolean.
-- Called by: migrations.py
SELECT certified FROM abide.epoch
