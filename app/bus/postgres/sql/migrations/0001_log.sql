-- The log: one row per channel and commit, not per message. Offsets are given under the lock of
-- the channel's head row, held until the commit: so they have no gaps and follow commit order.

CREATE TABLE abide.installation (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL,
    epoch text NOT NULL
);
COMMENT ON TABLE abide.installation IS 'Schema version, and the random id of this life of the log';
INSERT INTO abide.installation (version, epoch) VALUES (0, replace(gen_random_uuid()::text, '-', ''));

-- Half-empty pages and eager vacuum: a head row is updated at each commit of its channel.
CREATE TABLE abide.head (
    channel text COLLATE "C" PRIMARY KEY CHECK (octet_length(channel) BETWEEN 1 AND 255),
    head bigint NOT NULL,
    time bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE abide.head IS 'Newest offset of each channel; never deleted, or offsets would start again';

CREATE TABLE abide.log (
    channel text COLLATE "C" NOT NULL,
    last bigint NOT NULL,
    n integer NOT NULL CHECK (n > 0),
    time bigint NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (channel, last)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.2);
COMMENT ON TABLE abide.log IS
    'Messages with offsets last-n+1 to last; body: their JSON texts with U+001E between (no JSON text holds it)';
ALTER TABLE abide.log ALTER body SET STORAGE EXTERNAL;  -- reads measure bodies without unpacking them

CREATE TABLE abide.key (
    channel text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    hash bytea NOT NULL,
    "offset" bigint NOT NULL,
    time bigint NOT NULL,
    PRIMARY KEY (channel, key)
);
CREATE INDEX key_time ON abide.key (time);
COMMENT ON TABLE abide.key IS 'Idempotency keys of the last ten minutes, and what was stored under them';

CREATE FUNCTION abide.now_ms() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE
    AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

-- Append the messages of one commit. Indexes are 1-based.
--   channels, counts: the distinct channels, and how many messages each gets.
--   seg_*: the segments in order: their channel's index, how many messages of the channel there
--     are up to and including this segment, how many in it, their texts joined, inside NOTIFY or not.
--   key_*: the messages that have a key: their channel's index, their place among the channel's
--     messages, the key, a hash of the data.
-- Returns either a row (true, i, offset, hash) for each key that is known already, and has then
-- stored nothing; or a row (false, i, head, null) for each channel.
CREATE FUNCTION abide.append(
    channels text[], counts integer[],
    seg_channel integer[], seg_upto integer[], seg_n integer[], seg_body text[], seg_inline boolean[],
    key_channel integer[], key_place integer[], key_text text[], key_hash bytea[]
) RETURNS TABLE (known boolean, i integer, "offset" bigint, hash bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    heads bigint[];
    times bigint[];
    taken bigint;
BEGIN
    -- What is acknowledged is on disk, whatever the role's or the database's setting.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;

    IF cardinality(key_text) > 0 THEN
        RETURN QUERY
            SELECT true, t.i::integer, k."offset", k.hash
            FROM unnest(key_channel, key_text) WITH ORDINALITY t(c, key, i)
            JOIN abide.key k ON k.channel = channels[t.c] AND k.key = t.key
            WHERE k.time > abide.now_ms() - 600000;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;

    -- One segment without keys, as every commit is where little is published: the same, without the sets.
    IF cardinality(seg_n) = 1 AND cardinality(key_text) = 0 THEN
        INSERT INTO abide.head AS h (channel, head, time) VALUES (channels[1], seg_n[1], abide.now_ms())
        ON CONFLICT (channel) DO UPDATE
            SET head = h.head + excluded.head, time = greatest(h.time, excluded.time)
        RETURNING h.head, h.time INTO "offset", taken;
        INSERT INTO abide.log (channel, last, n, time, body)
            VALUES (channels[1], "offset", seg_n[1], taken, seg_body[1]);
        PERFORM pg_notify('abide', CASE WHEN seg_inline[1]
            THEN 'i ' || channels[1] || ' ' || "offset" || ' ' || seg_n[1] || ' ' || taken || E'\n' || seg_body[1]
            ELSE E'd\n' || channels[1] || ' ' || "offset" END);
        known := false;
        i := 1;
        RETURN NEXT;
        RETURN;
    END IF;

    -- In the order of names, the same for everybody: no two commits can wait for each other.
    WITH moved AS (
        INSERT INTO abide.head AS h (channel, head, time)
        SELECT t.channel, t.n, abide.now_ms() FROM unnest(channels, counts) t(channel, n)
        ORDER BY t.channel COLLATE "C"
        ON CONFLICT (channel) DO UPDATE
            SET head = h.head + excluded.head, time = greatest(h.time, abide.now_ms())
        RETURNING h.channel, h.head, h.time
    )
    SELECT array_agg(m.head ORDER BY t.i), array_agg(m.time ORDER BY t.i) INTO heads, times
    FROM unnest(channels) WITH ORDINALITY t(channel, i) JOIN moved m USING (channel);

    IF cardinality(key_text) > 0 THEN
        INSERT INTO abide.key AS k (channel, key, hash, "offset", time)
        SELECT channels[t.c], t.key, t.hash, heads[t.c] - counts[t.c] + t.place, times[t.c]
        FROM unnest(key_channel, key_place, key_text, key_hash) t(c, place, key, hash)
        ON CONFLICT (channel, key) DO UPDATE
            SET hash = excluded.hash, "offset" = excluded."offset", time = excluded.time
            WHERE k.time <= abide.now_ms() - 600000;
        GET DIAGNOSTICS taken = ROW_COUNT;
        IF taken < cardinality(key_text) THEN
            -- Another commit stored one of them since we looked: nothing of this one may stay.
            RAISE EXCEPTION 'an idempotency key was taken meanwhile' USING ERRCODE = 'serialization_failure';
        END IF;
    END IF;

    INSERT INTO abide.log (channel, last, n, time, body)
    SELECT channels[s.c], heads[s.c] - counts[s.c] + s.upto, s.n, times[s.c], s.body
    FROM unnest(seg_channel, seg_upto, seg_n, seg_body) s(c, upto, n, body);

    PERFORM pg_notify('abide', format(E'i %s %s %s %s\n%s',
        channels[s.c], heads[s.c] - counts[s.c] + s.upto, s.n, times[s.c], s.body))
    FROM unnest(seg_channel, seg_upto, seg_n, seg_body, seg_inline) WITH ORDINALITY s(c, upto, n, body, inline, i)
    WHERE s.inline ORDER BY s.i;

    -- Doorbells, at most 28 channels each: the longest names then still fit into one notification.
    PERFORM pg_notify('abide', E'd\n' || string_agg(r.line, E'\n'))
    FROM (
        SELECT channels[d.c] || ' ' || heads[d.c] AS line, (row_number() OVER () - 1) / 28 AS part
        FROM (SELECT s.c FROM unnest(seg_channel, seg_inline) s(c, inline) WHERE NOT s.inline GROUP BY s.c) d
    ) r
    GROUP BY r.part;

    RETURN QUERY SELECT false, t.i::integer, t.head, NULL::bytea FROM unnest(heads) WITH ORDINALITY t(head, i);
END $$;
REVOKE EXECUTE ON FUNCTION abide.append FROM PUBLIC;

-- Delete what no history shows any more: of each channel given, rows that lie wholly before the
-- newest `size` messages or are older than `ttl` ms; but nothing younger than a minute, so that
-- readers that were just told of it find it. One session at a time; others return 0 at once.
CREATE FUNCTION abide.trim(channels text[], sizes bigint[], ttls bigint[], most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now bigint := abide.now_ms();
    gone integer;
    keys_gone integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(4712340003) THEN
        RETURN 0;
    END IF;
    DELETE FROM abide.log WHERE ctid = ANY (ARRAY(
        SELECT l.ctid
        FROM unnest(channels, sizes, ttls) t(channel, size, ttl)
        JOIN abide.head h ON h.channel = t.channel COLLATE "C"
        JOIN abide.log l ON l.channel = h.channel AND l.time < now - 60000
            AND (l.last <= h.head - t.size OR l.time < now - t.ttl)
        LIMIT most));
    GET DIAGNOSTICS gone = ROW_COUNT;
    DELETE FROM abide.key WHERE ctid = ANY (ARRAY(
        SELECT k.ctid FROM abide.key k WHERE k.time < now - 600000 LIMIT most));
    GET DIAGNOSTICS keys_gone = ROW_COUNT;
    RETURN gone + keys_gone;
END $$;
REVOKE EXECUTE ON FUNCTION abide.trim FROM PUBLIC;
