-- $1 channel, $2 after, $3 limit (messages), $4 size, $5 ttl in ms, $6 limit (bytes). At least one row: the first columns
-- are the epoch, the channel's place and the ends of what is shown. Stops with the row that reaches a limit. No
-- row of ours has more than a message of a mebibyte and 60 kB: one that has is passed over, before anybody has to hold it.
WITH h AS (
    SELECT left(e.name, 8) AS epoch, e.certified, coalesce(h.head, e.floor) AS head,
        CASE WHEN h.channel IS NULL THEN e.lineage ELSE abide.continued(h.lineage, h.head, e.lineage) END AS lineage
    FROM abide.epoch e LEFT JOIN abide.head h ON h.channel = $1 AND h.head > 0
), w AS (
    SELECT h.*, coalesce((
        SELECT greatest(l.last - l.n + 1, h.head - $4::bigint + 1)
        FROM abide.log l
        WHERE l.channel = $1 AND l.last > h.head - $4::bigint AND l.time >= abide.now_ms() - $5::bigint
        ORDER BY l.last LIMIT 1
    ), h.head + 1) AS first
    FROM h
)
SELECT w.epoch, w.certified, w.lineage, w.first, w.head, r.last, r.n, r.time, r.body
FROM w LEFT JOIN LATERAL (
    SELECT s.*, sum(least(s.n, octet_length(s.body))) OVER before AS messages, sum(octet_length(s.body)) OVER before AS bytes
    FROM (
        SELECT l.last, l.n, l.time, l.body
        FROM abide.log l
        WHERE l.channel = $1 AND l.last > greatest($2::bigint, w.first - 1) AND octet_length(l.body) < 1200000
        ORDER BY l.last LIMIT $3::integer
    ) s
    WINDOW before AS (ORDER BY s.last ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
) r ON coalesce(r.messages, 0) < $3::integer AND coalesce(r.bytes, 0) < $6::bigint
ORDER BY r.last
