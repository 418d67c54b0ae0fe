-- $1 channel. Its head, and the database's clock.
SELECT coalesce((SELECT head FROM abide.head WHERE channel = $1), 0) AS head, abide.now_ms() AS now
