-- Ask how full the queue of notifications is. To ask also empties it of what no session waits for any more.
-- Parameters: none.
-- Returns: a fraction from 0 to 1.
-- Called by: append/store.py
SELECT pg_notification_queue_usage()
