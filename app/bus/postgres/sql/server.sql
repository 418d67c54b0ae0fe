-- Which run of which server this is, and which database there; and whether publishers in SQL ring: where a transaction can
-- be prepared they do not.
SELECT pg_postmaster_start_time()::text || ' ' || d.oid, current_setting('max_prepared_transactions') = '0'::text
FROM pg_database d WHERE d.datname = current_database()
