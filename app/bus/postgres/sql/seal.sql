SELECT s.inner_key, d.oid
FROM abide.seal s, pg_catalog.pg_database d
WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
