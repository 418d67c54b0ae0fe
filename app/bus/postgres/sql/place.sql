-- $1 channels. Where each stands: its head, and the lineage by which what comes next is named. At least one row.
SELECT left(e.name, 8) AS epoch, e.certified, t.channel, coalesce(h.head, e.floor) AS head,
    CASE WHEN h.channel IS NULL THEN e.lineage ELSE abide.continued(h.lineage, h.head, e.lineage) END AS lineage
FROM abide.epoch e
LEFT JOIN unnest($1::text[]) t(channel) ON true
LEFT JOIN abide.head h ON h.channel = t.channel AND h.head > 0
