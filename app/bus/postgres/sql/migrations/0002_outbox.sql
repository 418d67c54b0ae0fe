-- Publishing from SQL: abide.publish() puts a row into the outbox in the caller's transaction; a
-- worker moves committed rows into the log. It takes no lock that another publisher waits for.

CREATE TABLE abide.outbox (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel text COLLATE "C" NOT NULL,
    data text NOT NULL,
    key text COLLATE "C"
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE abide.outbox IS 'Published from SQL and committed, not yet in the log; empty but for moments';

-- Until when a drain is awake, in ms since 1970; 0 while none is. The one that is awake moves it on;
-- after its crash it runs out. A sequence, because what is set there is seen at once by everybody,
-- outside of transactions, and is read without a lock that readers could meet at.
CREATE SEQUENCE abide.awake MINVALUE 0 START 0;

CREATE FUNCTION abide.stay_awake(ms integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM setval('abide.awake', CASE WHEN ms > 0 THEN abide.now_ms() + ms ELSE 0 END);
END $$;
REVOKE EXECUTE ON FUNCTION abide.stay_awake FROM PUBLIC;

CREATE FUNCTION abide.refuse(channel text, message text, key text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF channel IS NULL OR channel !~ '^[A-Za-z0-9_.:-]{1,255}$' THEN
        RAISE EXCEPTION 'abide.publish: % is not a channel: a name has 1 to 255 letters, digits, _ - . :',
            coalesce(quote_literal(left(channel, 300)), 'NULL') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF message IS NULL THEN
        RAISE EXCEPTION 'abide.publish: the data for channel % is NULL: publish ''null''::jsonb if you mean JSON''s null',
            channel USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF octet_length(message) > 1048576 THEN
        RAISE EXCEPTION 'abide.publish: the message for channel % has % bytes: at most 1048576 fit',
            channel, octet_length(message) USING ERRCODE = 'program_limit_exceeded';
    END IF;
    RAISE EXCEPTION 'abide.publish: an idempotency key is 1 to 255 visible ASCII characters'
        USING ERRCODE = 'invalid_parameter_value';
END $$;
REVOKE EXECUTE ON FUNCTION abide.refuse FROM PUBLIC;
COMMENT ON FUNCTION abide.refuse IS 'Raises the error that says why abide.publish refuses these arguments';

-- Who finds that nobody is awake, rings. NOTIFY has one lock for the whole cluster, held until after
-- the commit, so under load it must not be in users' transactions. The sequence must be read after
-- the INSERT has locked the outbox: app/bus/postgres/outbox.py tells why.
--
-- It runs with its owner's rights under its caller's search_path: setting another one at every call
-- costs a tenth of the rate. So every name, operators too, is written with its schema. Nor is there
-- {1,255} in a pattern: that costs three times as much as all the rest.
CREATE FUNCTION abide.publish(channel text, data jsonb, key text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    message pg_catalog.text := data::pg_catalog.text;
BEGIN
    IF channel IS NULL OR channel OPERATOR(pg_catalog.~) '[^A-Za-z0-9_.:-]' OR channel OPERATOR(pg_catalog.=) ''
        OR pg_catalog.octet_length(channel) OPERATOR(pg_catalog.>) 255
        OR message IS NULL OR pg_catalog.octet_length(message) OPERATOR(pg_catalog.>) 1048576
        OR key OPERATOR(pg_catalog.~) '[^!-~]' OR key OPERATOR(pg_catalog.=) ''
        OR pg_catalog.octet_length(key) OPERATOR(pg_catalog.>) 255
    THEN
        PERFORM abide.refuse(channel, message, key);
    END IF;
    INSERT INTO abide.outbox (channel, data, key) VALUES (channel, message, key);
    IF (pg_catalog.to_timestamp(pg_catalog.pg_sequence_last_value('abide.awake'::pg_catalog.regclass)
        OPERATOR(pg_catalog./) 1000.0::pg_catalog.float8) OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()) IS NOT TRUE
    THEN
        PERFORM pg_catalog.pg_notify('abide', 'b');
    END IF;
END $$;
REVOKE EXECUTE ON FUNCTION abide.publish FROM PUBLIC;
COMMENT ON FUNCTION abide.publish IS
    'Publish a message if and only if this transaction commits. A repeated key within ten minutes publishes nothing.';

-- Move the oldest rows into the log; return how many, and how many messages of which channels that
-- made. Exactly once, because they leave the outbox and enter the log in one commit. A row whose key is
-- known is dropped: its message is there.
CREATE FUNCTION abide.drain(
    most integer, inline boolean, OUT drained integer, OUT channels text[], OUT counts integer[]
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rows_ bigint[]; names text[]; texts text[]; keys text[];
    s_c integer[]; s_upto integer[]; s_n integer[]; s_body text[]; s_inline boolean[];
    k_c integer[]; k_place integer[]; k_text text[]; k_hash bytea[];
    total bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(4712340002);
    -- At most some megabytes at a time: rows are taken in order until their bytes are used up.
    WITH next AS (
        SELECT o.seq, sum(octet_length(o.data)) OVER (ORDER BY o.seq) - octet_length(o.data) AS before
        FROM (SELECT seq, data FROM abide.outbox ORDER BY seq LIMIT most) o
    ), gone AS (
        DELETE FROM abide.outbox o USING next WHERE o.seq = next.seq AND next.before < 4000000
        RETURNING o.seq, o.channel, o.data, o.key
    )
    SELECT array_agg(g.seq ORDER BY g.seq), array_agg(g.channel ORDER BY g.seq), array_agg(g.data ORDER BY g.seq),
        array_agg(g.key ORDER BY g.seq), count(*), coalesce(sum(octet_length(g.data)), 0)
    INTO rows_, names, texts, keys, drained, total FROM gone g;
    IF drained = 0 THEN
        RETURN;
    END IF;

    IF array_remove(keys, NULL) <> '{}' THEN
        -- Under the locks of their heads nobody else can store these keys: what is fresh stays so.
        -- One statement, in the order of names: two would lock new rows before old ones.
        INSERT INTO abide.head AS h (channel, head, time)
            SELECT DISTINCT u.channel COLLATE "C", 0, 0 FROM unnest(names) u(channel) ORDER BY 1
            ON CONFLICT (channel) DO UPDATE SET head = h.head WHERE false;
        SELECT array_agg(f.channel ORDER BY f.seq), array_agg(f.data ORDER BY f.seq), array_agg(f.key ORDER BY f.seq),
            array_agg(f.seq ORDER BY f.seq)
        INTO names, texts, keys, rows_
        FROM (
            SELECT u.*, row_number() OVER (PARTITION BY u.channel, u.key ORDER BY u.seq) AS nth
            FROM unnest(rows_, names, texts, keys) u(seq, channel, data, key)
        ) f
        WHERE f.key IS NULL OR (f.nth = 1 AND NOT EXISTS (
            SELECT FROM abide.key k
            WHERE k.channel = f.channel AND k.key = f.key AND k.time > abide.now_ms() - 600000));
        IF names IS NULL THEN
            RETURN;
        END IF;
    END IF;

    SELECT array_agg(c.channel ORDER BY c.channel), array_agg(c.n ORDER BY c.channel) INTO channels, counts
    FROM (SELECT u.channel COLLATE "C" AS channel, count(*)::integer AS n FROM unnest(names) u(channel) GROUP BY 1) c;

    inline := inline AND total <= 65536;
    WITH placed AS (
        SELECT array_position(channels, u.channel) AS c, u.data, u.key, u.seq,
            row_number() OVER w AS place,
            (sum(octet_length(u.data) + 1) OVER w - 1) / CASE WHEN inline THEN 6000 ELSE 60000 END AS part
        FROM unnest(names, texts, keys, rows_) u(channel, data, key, seq)
        WINDOW w AS (PARTITION BY u.channel ORDER BY u.seq)
    ), keyed AS (
        SELECT array_agg(p.c) AS c, array_agg(p.place::integer) AS place, array_agg(p.key) AS key,
            array_agg(sha256(convert_to(p.data, 'UTF8'))) AS hash
        FROM placed p WHERE p.key IS NOT NULL
    ), segments AS (
        SELECT p.c, max(p.place)::integer AS upto, count(*)::integer AS n, min(p.seq) AS seq,
            string_agg(p.data, E'\x1e' ORDER BY p.seq) AS body
        FROM placed p GROUP BY p.c, p.part
    ), joined AS (
        SELECT array_agg(s.c ORDER BY s.seq) AS c, array_agg(s.upto ORDER BY s.seq) AS upto,
            array_agg(s.n ORDER BY s.seq) AS n, array_agg(s.body ORDER BY s.seq) AS body,
            array_agg(inline AND octet_length(s.body) <= 7600 ORDER BY s.seq) AS inline
        FROM segments s
    )
    SELECT j.c, j.upto, j.n, j.body, j.inline, coalesce(k.c, '{}'), coalesce(k.place, '{}'), coalesce(k.key, '{}'),
        coalesce(k.hash, '{}')
    INTO s_c, s_upto, s_n, s_body, s_inline, k_c, k_place, k_text, k_hash
    FROM joined j, keyed k;

    PERFORM abide.append(channels, counts, s_c, s_upto, s_n, s_body, s_inline, k_c, k_place, k_text, k_hash);
END $$;
REVOKE EXECUTE ON FUNCTION abide.drain FROM PUBLIC;
