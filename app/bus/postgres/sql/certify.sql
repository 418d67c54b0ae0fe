-- Certify the present epoch for the row that this transaction has written: a new version ends no epoch.
-- Parameters: none.
-- Returns: nothing.
-- Called by: migrations.py
UPDATE abide.installation SET writer = xmin
