-- Let one server at a time migrate. A role without rights on the table cannot take this lock.
-- Parameters: none.
-- Returns: nothing.
-- Called by: migrations.py
LOCK TABLE abide.installation IN SHARE ROW EXCLUSIVE MODE
