-- Give the steps of a migration the time that they need; but not long for a lock, since commits would queue behind it.
-- Parameters: none.
-- Returns: a row a setting.
-- Called by: migrations.py
SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN '10s' ELSE '0' END, true)
FROM pg_settings WHERE name IN ('statement_timeout', 'transaction_timeout', 'lock_timeout')
