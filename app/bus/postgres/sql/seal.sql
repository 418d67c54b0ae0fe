-- Read what proves that a commit of ours has sent a notification.
-- Parameters: none.
-- Returns: the inner key of the seal, and the oid of this database; no row when the seal is gone.
-- Called by: listen/listener.py
SELECT s.inner_key, d.oid
FROM abide.seal s, pg_catalog.pg_database d
WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
