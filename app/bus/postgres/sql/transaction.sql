-- Begin a transaction behind a pooler, with those settings of session.sql that it needs: the session is ours until its
-- end.
-- Parameters: none.
-- Returns: nothing.
-- Called by: sessions/work_connection.py
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL statement_timeout = '10s';
SET LOCAL lock_timeout = '2s';
SET LOCAL idle_in_transaction_session_timeout = '10s';
SET LOCAL row_security = off
