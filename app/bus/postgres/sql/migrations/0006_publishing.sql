-- Publishing from SQL takes what HTTP takes: json, jsonb or text that is JSON, of the same depth and size. It works in
-- transactions that are prepared, with a full queue of notifications, and after a switch by logical replication.

-- While this waits for a transaction that has published, nobody else can publish: so it does not wait long.
DO $$
BEGIN
    SET LOCAL lock_timeout = '2s';
    LOCK TABLE abide.outbox IN ACCESS EXCLUSIVE MODE;
EXCEPTION WHEN lock_not_available THEN
    RAISE EXCEPTION 'a transaction that has called abide.publish is still open: end it (pg_stat_activity, pg_prepared_xacts)'
        USING ERRCODE = 'lock_not_available';
END $$;

-- A subscriber of logical replication has the rows of the outbox, and a sequence that begins anew: numbers may come
-- twice, but not at the same microsecond. What abide.publish has not checked is looked at later.
ALTER TABLE abide.outbox DROP CONSTRAINT outbox_pkey,
    ADD COLUMN published timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN checked boolean NOT NULL DEFAULT false,
    ADD PRIMARY KEY (seq, published);

-- Whether JSON is nested more than 128 deep, as HTTP counts it. Without its strings, of brackets alone, it loses one
-- level at a time from the inside. Few texts have brackets enough to be looked at.
CREATE FUNCTION abide.too_deep(message text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rest text;
BEGIN
    IF octet_length(message) - octet_length(replace(replace(message, '[', ''), '{', '')) <= 128 THEN
        RETURN false;
    END IF;
    rest := regexp_replace(message COLLATE "C", '"(?:[^"\\]|\\.)*"', '', 'g');
    rest := translate(regexp_replace(rest, '[^][{}]+', '', 'g'), '{}', '[]');
    FOR level IN 1..128 LOOP
        EXIT WHEN rest = '';
        rest := replace(rest, '[]', '');
    END LOOP;
    RETURN rest <> '';
END $$;
COMMENT ON FUNCTION abide.too_deep IS 'Whether JSON is nested more than 128 deep';

-- As in 0002, with what is new to be refused.
CREATE OR REPLACE FUNCTION abide.refuse(channel text, message text, key text) RETURNS void
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
    IF abide.too_deep(message) THEN
        RAISE EXCEPTION 'abide.publish: the message for channel % is nested more than 128 deep: at most 128 are taken',
            channel USING ERRCODE = 'program_limit_exceeded';
    END IF;
    RAISE EXCEPTION 'abide.publish: an idempotency key is 1 to 255 visible ASCII characters'
        USING ERRCODE = 'invalid_parameter_value';
END $$;

-- Returns where a type is a domain over one that is taken: what is done with its values is what is done with those.
CREATE FUNCTION abide.refuse_type(given oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (
        WITH RECURSIVE base AS (
            SELECT t.oid, t.typbasetype FROM pg_type t WHERE t.oid = given
            UNION ALL
            SELECT t.oid, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.typbasetype
        )
        SELECT FROM base b WHERE b.oid IN ('json'::regtype, 'jsonb'::regtype, 'text'::regtype, 'varchar'::regtype)
    ) THEN
        RETURN;
    END IF;
    RAISE EXCEPTION 'abide.publish: data of type % is not taken: pass json, jsonb, or text that is JSON, as to_jsonb(...) makes it',
        given::regtype USING ERRCODE = 'datatype_mismatch';
END $$;
COMMENT ON FUNCTION abide.refuse_type IS 'Raises the error that says which types abide.publish takes';

-- One function for json, jsonb and text: GRANT … ON FUNCTION abide.publish goes on to name it, and a literal is text.
-- The type is asked before anything is done with data: a cast of somebody's own type would run with our owner's rights.
-- The numbers are the oids of jsonb, json, text and varchar, which are the same everywhere.
--
-- As in 0003, where the comment tells why it is written so; but nobody is rung where a transaction can be prepared,
-- for PREPARE TRANSACTION refuses one that notifies: workers look by themselves there. Nor is anybody rung when the
-- queue of notifications is half full, for a full one would refuse the commit. To ask how full it is also empties it of
-- what nobody waits for any more.
ALTER FUNCTION abide.publish RENAME TO publish_jsonb;
CREATE FUNCTION abide.publish(channel text, data anycompatible, key text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    message pg_catalog.text;
BEGIN
    IF pg_catalog.pg_typeof(data)::pg_catalog.oid OPERATOR(pg_catalog.<>) ALL ('{3802,114,25,1043}'::pg_catalog.oid[]) THEN
        PERFORM abide.refuse_type(pg_catalog.pg_typeof(data));
    END IF;
    message := data::pg_catalog.text;
    IF (channel OPERATOR(pg_catalog.~) '^[A-Za-z0-9_.:-]+$' AND pg_catalog.octet_length(channel) OPERATOR(pg_catalog.<=) 255
        AND pg_catalog.octet_length(message) OPERATOR(pg_catalog.<=) 1048576
        AND (pg_catalog.octet_length(message) OPERATOR(pg_catalog.<) 258
            OR pg_catalog.octet_length(message) OPERATOR(pg_catalog.-) pg_catalog.octet_length(
                pg_catalog.replace(pg_catalog.replace(message, '[', ''), '{', '')) OPERATOR(pg_catalog.<=) 128
            OR NOT abide.too_deep(message))
        AND (pg_catalog.pg_typeof(data)::pg_catalog.oid OPERATOR(pg_catalog.=) 3802::pg_catalog.oid
            OR message::pg_catalog.json IS NOT NULL)
        AND (key IS NULL OR key OPERATOR(pg_catalog.~) '^[!-~]+$' AND pg_catalog.octet_length(key) OPERATOR(pg_catalog.<=) 255)
    ) IS NOT TRUE THEN
        PERFORM abide.refuse(channel, message, key);
    END IF;
    INSERT INTO abide.outbox (channel, data, key, checked) VALUES (channel, message, key, true);
    IF (pg_catalog.to_timestamp(pg_catalog.pg_sequence_last_value('abide.awake'::pg_catalog.regclass)
        OPERATOR(pg_catalog./) 1000.0::pg_catalog.float8) OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()) IS NOT TRUE
    THEN
        IF pg_catalog.current_setting('max_prepared_transactions') OPERATOR(pg_catalog.=) '0'
            AND pg_catalog.pg_notification_queue_usage() OPERATOR(pg_catalog.<) 0.5::pg_catalog.float8
        THEN
            PERFORM pg_catalog.pg_notify('abide', 'b');
        END IF;
    END IF;
END $$;
COMMENT ON FUNCTION abide.publish IS
    'Publish a message if and only if this transaction commits. A repeated key within ten minutes publishes nothing.';

-- Who may publish may go on, and give that right to others as before. What the old function was put into, as a function
-- of somebody's with a body of SQL, goes on to call it; where nothing does, it goes.
CREATE OR REPLACE FUNCTION abide.publish_jsonb(channel text, data jsonb, key text DEFAULT NULL) RETURNS void
LANGUAGE sql SECURITY DEFINER AS $$ SELECT abide.publish(channel, data, key) $$;
DO $$
DECLARE
    given record;
    role text;
BEGIN
    FOR role IN
        SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        WHERE p.oid = 'abide.publish'::regproc AND a.grantee <> p.proowner
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION abide.publish FROM %s', role);
    END LOOP;
    FOR given IN
        SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS role, a.is_grantable AS further
        FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        WHERE p.oid = 'abide.publish_jsonb'::regproc AND a.grantee <> p.proowner
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION abide.publish TO %s %s', given.role,
            CASE WHEN given.further THEN 'WITH GRANT OPTION' END);
    END LOOP;
    BEGIN
        DROP FUNCTION abide.publish_jsonb;
    EXCEPTION WHEN dependent_objects_still_exist THEN
        NULL;
    END;
END $$;

-- Data as JSON: as it is, or, where it is none or nested too deep, as a string that holds it.
CREATE FUNCTION abide.as_json(data text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT abide.too_deep(data) THEN
        PERFORM data::json;
        RETURN data;
    END IF;
    RETURN to_json(data);
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN to_json(data);
END $$;
COMMENT ON FUNCTION abide.as_json IS 'Text as it is where it is JSON, else as a JSON string';

-- The data of a row that was put into the outbox otherwise than by this abide.publish: JSON, if need be as a string. NULL
-- where it cannot be published at all: then a warning says why, which servers put into their log.
CREATE FUNCTION abide.look_at(seq bigint, channel text, data text, key text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong text;
BEGIN
    data := abide.as_json(data);
    wrong := CASE
        WHEN channel !~ '^[A-Za-z0-9_.:-]{1,255}$' THEN 'its channel is no name of 1 to 255 letters, digits, _ - . :'
        WHEN key !~ '^[!-~]{1,255}$' THEN 'its key is not 1 to 255 visible ASCII characters'
        WHEN data IS NULL OR octet_length(data) > 1048576 THEN 'its data has more than 1048576 bytes'
    END;
    IF wrong IS NULL THEN
        RETURN data;
    END IF;
    RAISE WARNING 'row % of abide.outbox, for channel %, is dropped: %. Publish by abide.publish, which refuses it at once',
        seq, quote_literal(left(channel, 300)), wrong USING ERRCODE = 'AB101';
    RETURN NULL;
END $$;
COMMENT ON FUNCTION abide.look_at IS 'What of a row of the outbox that abide.publish has not checked can be published';

-- Take the oldest rows out of the outbox, at most some megabytes of them, and number them in their order. What cannot be
-- published has no channel.
CREATE FUNCTION abide.take(most integer) RETURNS TABLE (place bigint, channel text, data text, key text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    newest bigint := (SELECT max(o.seq) FROM abide.outbox o);
BEGIN
    -- Numbers that our sequence has not given yet are another database's: let it go on after them, with room for those
    -- that it gives meanwhile. But not where somebody has written a number near the last there is.
    IF newest > coalesce(pg_sequence_last_value('abide.outbox_seq_seq'), 0) AND newest < 1::bigint << 62 THEN
        PERFORM setval('abide.outbox_seq_seq', newest + 1000000);
    END IF;
    RETURN QUERY
        WITH next AS (
            SELECT o.at, sum(octet_length(o.data)) OVER (ORDER BY o.seq, o.at ROWS UNBOUNDED PRECEDING)
                - octet_length(o.data) AS before
            FROM (SELECT ctid AS at, seq, data FROM abide.outbox ORDER BY seq LIMIT most) o
        ), gone AS (
            DELETE FROM abide.outbox o
            WHERE o.ctid = ANY (ARRAY(SELECT n.at FROM next n WHERE n.before < 4000000))
            RETURNING o.ctid AS at, o.seq, o.channel, o.key, o.checked,
                CASE WHEN octet_length(o.data) <= 1048576 THEN o.data END AS data
        ), looked_at AS (
            SELECT g.at, g.seq, g.channel, g.key,
                CASE WHEN g.checked THEN g.data ELSE abide.look_at(g.seq, g.channel, g.data, g.key) END AS data
            FROM gone g
        )
        SELECT row_number() OVER (ORDER BY l.seq, l.at), CASE WHEN l.data IS NOT NULL THEN l.channel END, l.data, l.key
        FROM looked_at l;
END $$;
COMMENT ON FUNCTION abide.take IS 'Takes the oldest rows out of the outbox';

-- As in 0004, but for how rows are taken out of the outbox.
CREATE OR REPLACE FUNCTION abide.drain(
    most integer, inline boolean, OUT drained integer, OUT channels text[], OUT counts integer[]
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    rows_ bigint[]; names text[]; texts text[]; keys text[];
    s_c integer[]; s_upto integer[]; s_n integer[]; s_body text[]; s_inline boolean[];
    k_c integer[]; k_place integer[]; k_text text[]; k_hash bytea[];
    total bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM abide.outbox) THEN
        drained := 0;
        RETURN;
    END IF;
    PERFORM FROM abide.turn t WHERE t.what = 'drain' FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT array_agg(t.place ORDER BY t.place) FILTER (WHERE t.channel IS NOT NULL),
        array_agg(t.channel ORDER BY t.place) FILTER (WHERE t.channel IS NOT NULL),
        array_agg(t.data ORDER BY t.place) FILTER (WHERE t.channel IS NOT NULL),
        array_agg(t.key ORDER BY t.place) FILTER (WHERE t.channel IS NOT NULL),
        count(*), coalesce(sum(octet_length(t.data)), 0)
    INTO rows_, names, texts, keys, drained, total FROM abide.take(most) t;
    IF names IS NULL THEN
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

    inline := CASE WHEN inline THEN total <= 65536 ELSE inline END;  -- NULL stays NULL: nobody is told
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
            array_agg(CASE WHEN inline THEN octet_length(s.body) <= 7600 ELSE inline END ORDER BY s.seq) AS inline
        FROM segments s
    )
    SELECT j.c, j.upto, j.n, j.body, j.inline, coalesce(k.c, '{}'), coalesce(k.place, '{}'), coalesce(k.key, '{}'),
        coalesce(k.hash, '{}')
    INTO s_c, s_upto, s_n, s_body, s_inline, k_c, k_place, k_text, k_hash
    FROM joined j, keyed k;

    PERFORM abide.append(channels, counts, s_c, s_upto, s_n, s_body, s_inline, k_c, k_place, k_text, k_hash);
END $$;

-- Rights: what is new has the owner of the rest, and is for nobody else, whatever ALTER DEFAULT PRIVILEGES gives away.
DO $$
DECLARE
    owner regrole := (SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.oid = 'abide.outbox'::regclass);
    new regprocedure;
    role text;
BEGIN
    FOREACH new IN ARRAY ARRAY['abide.too_deep(text)', 'abide.refuse_type(oid)', 'abide.as_json(text)',
        'abide.look_at(bigint, text, text, text)', 'abide.take(integer)']::regprocedure[]
    LOOP
        FOR role IN
            SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
            FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
            WHERE p.oid = new AND a.grantee <> p.proowner
        LOOP
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %s', new, role);
        END LOOP;
        EXECUTE format('ALTER FUNCTION %s OWNER TO %s', new, owner);
    END LOOP;
    EXECUTE format('ALTER FUNCTION abide.publish OWNER TO %s', owner);
END $$;
