-- Identify the server, its last start and the database; and say whether publishers in SQL ring for a worker. They do
-- not where transactions can be prepared.
-- Parameters: none.
-- Returns: a text that differs for every other server, start and database; and one boolean.
-- Called by: listen/listener.py
SELECT pg_postmaster_start_time()::text || ' ' || d.oid, current_setting('max_prepared_transactions') = '0'::text
FROM pg_database d WHERE d.datname = current_database()
