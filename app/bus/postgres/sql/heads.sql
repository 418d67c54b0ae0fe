-- $1 channels. The epoch, whether the outbox holds anything, and the heads, of names without a row none; at least one row.
-- Fails where the log may not be read, or is locked. The array is one that the planner does not see into: for an empty one
-- it would plan anew each time, which takes longer than all the rest.
SELECT left(e.name, 8) AS epoch, e.certified, EXISTS (SELECT FROM abide.outbox) AS waiting, h.channel, h.head
FROM abide.epoch e
LEFT JOIN abide.head h ON h.channel = ANY (ARRAY(SELECT unnest($1::text[])))
    AND h.head > 0 AND NOT EXISTS (SELECT FROM abide.log WHERE false)
