-- Read where channels are: their heads, and the lineages that their next messages continue.
-- Parameters: $1 channels.
-- Returns: at least one row: the log's epoch and whether it is certified, a channel, its head and its lineage.
-- Called by: log_reads.py, listen/heads.py
SELECT left(e.name, 8) AS epoch, e.certified, t.channel, coalesce(h.head, e.floor) AS head,
    CASE WHEN h.channel IS NULL THEN e.lineage ELSE abide.continued(h.lineage, h.head, e.lineage) END AS lineage
FROM abide.epoch e
LEFT JOIN unnest($1::text[]) t(channel) ON true
LEFT JOIN abide.head h ON h.channel = t.channel AND h.head > 0
