-- Which run of which server this is, and which database there.
SELECT pg_postmaster_start_time()::text || ' ' || d.oid FROM pg_database d WHERE d.datname = current_database()
