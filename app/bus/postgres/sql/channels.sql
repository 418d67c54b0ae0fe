-- List the channels that have a head, a page at a time.
-- Parameters: $1 the last channel of the page before, or an empty text; $2 the size of a page.
-- Returns: a row a channel, in the order of their names.
-- Called by: retention.py
SELECT channel FROM abide.head WHERE channel > $1 ORDER BY channel LIMIT $2
