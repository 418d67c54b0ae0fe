-- A neighbour in the database: a role that may connect to it, and has no right in this schema. It can notify
-- whatever it likes, and take any advisory lock. So what comes with a notification has to prove that a commit
-- of ours sent it, and nobody waits for a lock that others can take.

-- HMAC-SHA256 (RFC 2104) in two calls of sha256(): its key, XORed with 0x36 and with 0x5c. It stays as it is
-- when an older backup is restored: what a notification from before says is dropped for its time
-- (app/bus/postgres/follower.py). The oid of the database is sealed along, for a copy of it has the same key.
CREATE TABLE abide.seal (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    inner_key bytea NOT NULL CHECK (octet_length(inner_key) = 64),
    outer_key bytea NOT NULL CHECK (octet_length(outer_key) = 64)
);
COMMENT ON TABLE abide.seal IS 'The secret by which a server knows the notifications of commits: for servers alone';

-- Make a new secret, of the random bits of eight UUIDs. Sessions that listen go on with the old one: with hints.
CREATE FUNCTION abide.reseal() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    secret bytea := sha256(convert_to(concat(gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid()), 'UTF8'))
        || sha256(convert_to(concat(gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid()), 'UTF8'));
    inside bytea := secret;
    outside bytea := secret;
BEGIN
    FOR i IN 0..63 LOOP
        inside := set_byte(inside, i, get_byte(secret, i) # 54);
        outside := set_byte(outside, i, get_byte(secret, i) # 92);
    END LOOP;
    INSERT INTO abide.seal AS s (inner_key, outer_key) VALUES (inside, outside)
    ON CONFLICT (one) DO UPDATE SET inner_key = excluded.inner_key, outer_key = excluded.outer_key;
END $$;
REVOKE EXECUTE ON FUNCTION abide.reseal FROM PUBLIC;
SELECT abide.reseal();

-- Who may do some work at a time. drain and trim: a transaction at it has the row locked. lead: whom
-- publishers need not wake, by the process id of its LISTEN, and until when unless it says so again.
CREATE TABLE abide.turn (
    what text COLLATE "C" PRIMARY KEY,
    holder integer NOT NULL DEFAULT 0,
    until bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
COMMENT ON TABLE abide.turn IS 'Whose turn it is: row locks and a lease, for which one needs rights in this schema';
INSERT INTO abide.turn (what) VALUES ('drain'), ('trim'), ('lead');

-- As in 0001, but servers call it under a search_path that has public in it, where every role may have put
-- an operator that fits better. So all names in it have their schema, as in abide.publish.
CREATE OR REPLACE FUNCTION abide.now_ms() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE
    AS $$ SELECT (pg_catalog.date_part('epoch'::pg_catalog.text, pg_catalog.clock_timestamp())
        OPERATOR(pg_catalog.*) 1000.0::pg_catalog.float8)::pg_catalog.int8 $$;

-- Tell listeners of a segment: with its messages, sealed; else of its head; or of nothing, where inline is NULL.
CREATE FUNCTION abide.tell(name text, last bigint, many integer, taken bigint, joined text, inline boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    said text;
BEGIN
    IF inline THEN
        said := name || ' ' || last || ' ' || many || ' ' || taken || E'\n' || joined;
        PERFORM pg_notify('abide', 'm ' || left(encode(
            sha256(s.outer_key || sha256(s.inner_key || convert_to(d.oid || ' ' || said, 'UTF8'))), 'hex'), 32) || ' ' || said)
        FROM abide.seal s, pg_database d WHERE d.datname = current_database();
    ELSIF NOT inline THEN
        PERFORM pg_notify('abide', E'd\n' || name || ' ' || last);
    END IF;
END $$;
REVOKE EXECUTE ON FUNCTION abide.tell FROM PUBLIC;

-- Take or keep the lead for so many ms; 0: give it back. True: it is the caller's. False: another's. NULL:
-- nobody has it, and there is nothing to move. A lease that ends later than any can is one from before the
-- clock was set back. It is worth no wait for the disk: what a crash takes of it runs out by itself.
CREATE FUNCTION abide.lead(ms integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    now bigint := abide.now_ms();
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    IF ms = 0 THEN
        UPDATE abide.turn t SET holder = 0, until = 0 WHERE t.what = 'lead' AND t.holder = pg_backend_pid();
        RETURN false;
    END IF;
    UPDATE abide.turn t SET holder = pg_backend_pid(), until = now + ms
    WHERE t.what = 'lead' AND (t.holder = pg_backend_pid()
        OR t.until NOT BETWEEN now AND now + 60000 AND EXISTS (SELECT FROM abide.outbox));
    IF FOUND THEN
        RETURN true;
    END IF;
    RETURN CASE WHEN EXISTS (SELECT FROM abide.turn t WHERE t.what = 'lead' AND t.until BETWEEN now AND now + 60000)
        OR EXISTS (SELECT FROM abide.outbox) THEN false END;
END $$;
REVOKE EXECUTE ON FUNCTION abide.lead FROM PUBLIC;

-- As in 0003, but for how listeners are told.
CREATE OR REPLACE FUNCTION abide.append_one(name text, many integer, joined text, inline boolean) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    upto bigint;
    taken bigint;
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    INSERT INTO abide.head AS h (channel, head, time) VALUES (name, many, abide.now_ms())
    ON CONFLICT (channel) DO UPDATE SET head = h.head + excluded.head, time = greatest(h.time, excluded.time)
    RETURNING h.head, h.time INTO upto, taken;
    INSERT INTO abide.log (channel, last, n, time, body) VALUES (name, upto, many, taken, joined);
    PERFORM abide.tell(name, upto, many, taken, joined, inline);
    RETURN upto;
END $$;

-- As in 0001, but for how listeners are told.
CREATE OR REPLACE FUNCTION abide.append(
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
        PERFORM abide.tell(channels[1], "offset", seg_n[1], taken, seg_body[1], seg_inline[1]);
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

    PERFORM abide.tell(channels[s.c], heads[s.c] - counts[s.c] + s.upto, s.n, times[s.c], s.body, true)
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

-- As in 0002, but for the lock: who finds that another moves rows leaves it to that one, and returns NULL, not 0.
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

-- As in 0001, but for the lock.
CREATE OR REPLACE FUNCTION abide.trim(channels text[], sizes bigint[], ttls bigint[], most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    now bigint := abide.now_ms();
    gone integer;
    keys_gone integer;
BEGIN
    PERFORM FROM abide.turn t WHERE t.what = 'trim' FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
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

-- Rights: all has one owner, whoever takes this step, for functions run with the rights of theirs.
DO $$
DECLARE
    owner regrole := (SELECT p.proowner FROM pg_catalog.pg_proc p WHERE p.oid = 'abide.append'::regproc);
BEGIN
    EXECUTE format('ALTER TABLE abide.seal OWNER TO %s', owner);
    EXECUTE format('ALTER TABLE abide.turn OWNER TO %s', owner);
    EXECUTE format('ALTER FUNCTION abide.append_one OWNER TO %s', owner);
    EXECUTE format('ALTER FUNCTION abide.tell OWNER TO %s', owner);
    EXECUTE format('ALTER FUNCTION abide.lead OWNER TO %s', owner);
    EXECUTE format('ALTER FUNCTION abide.reseal OWNER TO %s', owner);
END $$;

-- Servers that are not the owner go on with the rights that they have. The new tables and functions are for
-- nobody else, whatever ALTER DEFAULT PRIVILEGES gives away. Where PUBLIC may append, the secret is not for
-- it: such a server works by hints, and says so.
DO $$
DECLARE
    role text;
    thing text;
BEGIN
    FOR role, thing IN
        SELECT a.grantee::regrole, 'TABLE ' || c.oid::regclass FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
        WHERE c.oid IN ('abide.seal'::regclass, 'abide.turn'::regclass) AND a.grantee NOT IN (0, c.relowner)
        UNION
        SELECT a.grantee::regrole, 'FUNCTION ' || p.oid::regprocedure
        FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
        WHERE p.oid IN ('abide.tell'::regproc, 'abide.lead'::regproc, 'abide.reseal'::regproc)
            AND a.grantee NOT IN (0, p.proowner)
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', thing, role);
    END LOOP;
    REVOKE ALL ON abide.seal, abide.turn FROM PUBLIC;
    FOR role IN
        SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
        WHERE p.oid = 'abide.append'::regproc AND a.privilege_type = 'EXECUTE' AND a.grantee <> p.proowner
    LOOP
        IF role <> 'PUBLIC' THEN
            EXECUTE format('GRANT SELECT ON abide.seal TO %s', role);
        END IF;
        EXECUTE format('GRANT EXECUTE ON FUNCTION abide.append_one, abide.lead TO %s', role);
    END LOOP;
END $$;
