-- End a transaction that transaction.sql began, and undo what it did.
-- Parameters: none.
-- Returns: nothing.
-- Called by: sessions/work_connection.py
ROLLBACK
