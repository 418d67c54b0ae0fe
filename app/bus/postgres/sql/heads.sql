-- Read the heads of followed channels. Fails where the server may not read the log, or where the log is locked. The
-- planner cannot see into ARRAY(…): for an empty array it would plan anew each time, which takes longer than the rest.
-- Parameters: $1 channels.
-- Returns: at least one row: the log's epoch and whether it is certified, whether the outbox holds anything, a channel
--     and its head. A channel without a head has no row.
-- Called by: listen/heads.py
SELECT left(e.name, 8) AS epoch, e.certified, EXISTS (SELECT FROM abide.outbox) AS waiting, h.channel, h.head
FROM abide.epoch e
LEFT JOIN abide.head h ON h.channel = ANY (ARRAY(SELECT unnest($1::text[])))
    AND h.head > 0 AND NOT EXISTS (SELECT FROM abide.log WHERE false)
