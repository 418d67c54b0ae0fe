-- Read messages that histories show, of each up to the row that reaches a limit. No row that a server writes holds more
-- than one message of a mebibyte and 60 kB. A larger one is left out, so that nobody has to hold it in memory.
-- Parameters: for each read: $1 the channel; $2 the offset to read after; $3 the most messages; $4 the size of the
--     history, in messages; $5 its ttl, in ms. $6 the most bytes of one.
-- Returns: at least one row a read, in their order: its number, counted from one; the log's epoch and whether it is
--     certified, the channel's lineage, the first offset that the history shows, the head, and a row of the log or NULLs.
-- Called by: log_reads.py
WITH h AS (
    SELECT a.*, left(e.name, 8) AS epoch, e.certified, coalesce(h.head, e.floor) AS head,
        CASE WHEN h.channel IS NULL THEN e.lineage ELSE abide.continued(h.lineage, h.head, e.lineage) END AS lineage
    FROM abide.epoch e
    CROSS JOIN unnest($1::text[], $2::bigint[], $3::integer[], $4::bigint[], $5::bigint[])
        WITH ORDINALITY a(channel, after, most, size, ttl, i)
    LEFT JOIN abide.head h ON h.channel = a.channel AND h.head > 0
), w AS (
    SELECT h.*, coalesce((
        SELECT greatest(l.last - l.n + 1, h.head - h.size + 1)
        FROM abide.log l
        WHERE l.channel = h.channel AND l.last > h.head - h.size AND l.time >= abide.now_ms() - h.ttl
        ORDER BY l.last LIMIT 1
    ), h.head + 1) AS first
    FROM h
)
SELECT w.i, w.epoch, w.certified, w.lineage, w.first, w.head, r.last, r.n, r.time, r.body
FROM w LEFT JOIN LATERAL (
    SELECT s.*, sum(least(s.n, s.last - greatest(w.after, w.first - 1), octet_length(s.body))) OVER before AS messages,
        sum(octet_length(s.body)) OVER before AS bytes
    FROM (
        SELECT l.last, l.n, l.time, l.body
        FROM abide.log l
        WHERE l.channel = w.channel AND l.last > greatest(w.after, w.first - 1) AND octet_length(l.body) < 1200000
        ORDER BY l.last LIMIT w.most
    ) s
    WINDOW before AS (ORDER BY s.last ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
) r ON coalesce(r.messages, 0) < w.most AND coalesce(r.bytes, 0) < $6::bigint
ORDER BY w.i, r.last
