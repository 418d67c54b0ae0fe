-- $1 channels. The epoch, the database's clock, whether the outbox holds anything, and the heads; at least one row.
-- Fails where the log may not be read, or is locked.
SELECT i.epoch, abide.now_ms() AS now, EXISTS (SELECT FROM abide.outbox) AS waiting, h.channel, h.head
FROM abide.installation i LEFT JOIN abide.head h ON h.channel = ANY ($1::text[]) AND NOT EXISTS (SELECT FROM abide.log WHERE false)
