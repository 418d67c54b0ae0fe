-- $1 channels. The epoch, whether the outbox holds anything, and the heads; at least one row.
SELECT i.epoch, EXISTS (SELECT FROM abide.outbox) AS waiting, h.channel, h.head
FROM abide.installation i LEFT JOIN abide.head h ON h.channel = ANY ($1::text[])
