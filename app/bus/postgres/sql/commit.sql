-- End a transaction that transaction.sql began, and keep what it did.
-- Parameters: none.
-- Returns: nothing.
-- Called by: sessions/work_connection.py
COMMIT
