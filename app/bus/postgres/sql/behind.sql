-- Read the next rows of the log for followers that are behind: at most a megabyte a channel, whatever its history
-- shows, and everything as of one moment. Rows larger than any that a server writes are left out, as in read.sql.
-- Parameters: $1 channels; $2 for each channel, the offset to read after.
-- Returns: at least one row a channel: the log's epoch and whether it is certified, the channel, its head and lineage,
--     and a row of the log or NULLs.
-- Called by: log_reads.py
SELECT left(e.name, 8) AS epoch, e.certified, t.channel, coalesce(h.head, e.floor) AS head,
    CASE WHEN h.channel IS NULL THEN e.lineage ELSE abide.continued(h.lineage, h.head, e.lineage) END AS lineage,
    r.last, r.n, r.time, r.body
FROM abide.epoch e
CROSS JOIN unnest($1::text[], $2::bigint[]) t(channel, after)
LEFT JOIN abide.head h ON h.channel = t.channel AND h.head > 0
LEFT JOIN LATERAL (
    SELECT s.*, sum(octet_length(s.body)) OVER (ORDER BY s.last ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes
    FROM (
        SELECT l.last, l.n, l.time, l.body
        FROM abide.log l
        WHERE l.channel = t.channel AND l.last > t.after AND octet_length(l.body) < 1200000
        ORDER BY l.last LIMIT 200
    ) s
) r ON coalesce(r.bytes, 0) < 1000000
ORDER BY t.channel, r.last
