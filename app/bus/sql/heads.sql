-- $1 channels. Their heads, and in a row without a channel whether the outbox holds anything.
SELECT channel, head FROM abide.head WHERE channel = ANY ($1::text[])
UNION ALL
SELECT NULL, 1 WHERE EXISTS (SELECT FROM abide.outbox)
