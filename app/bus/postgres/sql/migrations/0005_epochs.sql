-- Epochs: stretches of the log's life during which nothing that was told was taken back. A new one is opened before
-- the first append after anything by which history may have been rewritten. docs/design/epochs.md has the argument.

-- What the present epoch is certified by; a lineage as in abide.head, of a channel that has no row there; and the
-- highest offset of a channel that was forgotten. `epoch` stays the name of the first one.
ALTER TABLE abide.installation
    ADD name text, ADD lineage text, ADD started timestamptz, ADD place text, ADD writer xid,
    ADD floor bigint NOT NULL DEFAULT 0;
UPDATE abide.installation SET name = epoch, lineage = epoch;
ALTER TABLE abide.installation ALTER name SET NOT NULL, ALTER lineage SET NOT NULL;

-- Where epochs began in the channel, the newest first: its name, F or N and the offset of its first message there, P and
-- the one before it. N where the channel began, or began again. The first epoch's name is 32 characters where it is
-- alone; all others have 8. It grows only when a channel gets its first message in an epoch.
DO $$
BEGIN
    EXECUTE format('ALTER TABLE abide.head ADD lineage text COLLATE "C" NOT NULL DEFAULT %L',
        (SELECT i.epoch FROM abide.installation i));
END $$;
ALTER TABLE abide.head ALTER lineage SET DEFAULT '';

-- The present epoch. It is certified as long as the row is the one that was written when it was opened, by this
-- process of PostgreSQL, for this file of heads: every copy, dump, snapshot or other life of them fails one of the three.
CREATE VIEW abide.epoch AS
SELECT i.name, i.lineage, i.floor,
    i.started = pg_postmaster_start_time() AND i.place = pg_relation_filepath('abide.head'::regclass)
        AND i.xmin = i.writer AS certified
FROM abide.installation i;
COMMENT ON VIEW abide.epoch IS 'The present epoch, and whether it is certified; abide.enter() opens one where it is not';

-- Certify the row that this transaction has written. Twice, because only the row itself tells by which id it was
-- written: in a subtransaction by another than the transaction's.
CREATE FUNCTION abide.certify() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE abide.installation
    SET started = pg_postmaster_start_time(), place = pg_relation_filepath('abide.head'::regclass);
    UPDATE abide.installation SET writer = xmin;
END $$;
REVOKE EXECUTE ON FUNCTION abide.certify FROM PUBLIC;

-- Open an epoch; the caller has locked the row. Where all heads are gone, messages may have been left without theirs:
-- they are made of them, or offsets would be given again.
CREATE FUNCTION abide.open_epoch() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fresh text := left(gen_random_uuid()::text, 8);
BEGIN
    UPDATE abide.installation SET name = fresh, lineage = fresh || 'N' || floor + 1 || 'P' || left(epoch, 8);
    INSERT INTO abide.head (channel, head, time, lineage)
    SELECT l.channel, greatest(max(l.last), i.floor), max(l.time), i.lineage
    FROM abide.log l, abide.installation i
    WHERE NOT EXISTS (SELECT FROM abide.head)
    GROUP BY l.channel, i.floor, i.lineage
    ON CONFLICT DO NOTHING;
    PERFORM abide.certify();
END $$;
REVOKE EXECUTE ON FUNCTION abide.open_epoch FROM PUBLIC;

-- Return the name of the present epoch, 8 characters; open one if it is not certified, or the one named, which is over.
CREATE FUNCTION abide.enter(over text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    present text := (SELECT left(e.name, 8) FROM abide.epoch e WHERE e.certified);
BEGIN
    IF present <> over OR present IS NOT NULL AND over IS NULL THEN
        RETURN present;
    END IF;
    -- What is told is on disk, whatever the role's or the database's setting.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    PERFORM FROM abide.installation FOR UPDATE;  -- another may have opened one since we looked
    SELECT left(e.name, 8) INTO present FROM abide.epoch e WHERE e.certified;
    IF present <> over OR present IS NOT NULL AND over IS NULL THEN
        RETURN present;
    END IF;
    -- Keys come last when a dump is restored: until then there may be heads without their messages.
    IF EXISTS (
        SELECT FROM pg_class c WHERE c.relnamespace = 'abide'::regnamespace AND c.relkind = 'r'
            AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisprimary))
    THEN
        RAISE EXCEPTION 'the schema ''abide'' is not complete: a backup is being restored, or was not restored to its end'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    PERFORM abide.open_epoch();
    RETURN (SELECT left(i.name, 8) FROM abide.installation i);
END $$;
REVOKE EXECUTE ON FUNCTION abide.enter FROM PUBLIC;
COMMENT ON FUNCTION abide.enter IS 'Begin to use the log: opens an epoch if history may have been rewritten';

-- The lineage of a channel that goes on after `head` in the epoch that `newborn` begins with. At most some 30 epochs are
-- remembered: a name that is cut off is known to nobody.
CREATE FUNCTION abide.continued(lineage text, head bigint, newborn text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN left(lineage, 8) = left(newborn, 8) OR position('P' || left(newborn, 8) IN lineage) > 0 THEN lineage
        ELSE left(newborn, 8) || 'F' || head + 1 || 'P'
            || CASE WHEN position('P' IN lineage) = 0 THEN left(lineage, 8) ELSE left(lineage, 600) END
    END
$$;

-- Heads are deleted or lowered by hand: then what comes next is of another epoch. (TRUNCATE needs no trigger: it gives the
-- table another file.) ALWAYS: what replicates into this database has to be noticed, too.
CREATE FUNCTION abide.head_went_back() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('abide.forgetting', true) = 'on' THEN
        RETURN NULL;
    END IF;
    PERFORM FROM abide.installation FOR UPDATE;
    PERFORM abide.open_epoch();
    INSERT INTO abide.head (channel, head, time, lineage)
    SELECT l.channel, greatest(max(l.last), i.floor), max(l.time), i.lineage
    FROM gone JOIN abide.log l USING (channel), abide.installation i
    GROUP BY l.channel, i.floor, i.lineage
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION abide.head_went_back FROM PUBLIC;
CREATE TRIGGER head_deleted AFTER DELETE ON abide.head REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION abide.head_went_back();
ALTER TABLE abide.head ENABLE ALWAYS TRIGGER head_deleted;
CREATE FUNCTION abide.head_lowered() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM abide.installation FOR UPDATE;
    PERFORM abide.open_epoch();
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION abide.head_lowered FROM PUBLIC;
CREATE TRIGGER head_lowered AFTER UPDATE OF head ON abide.head
    FOR EACH ROW WHEN (new.head < old.head) EXECUTE FUNCTION abide.head_lowered();
ALTER TABLE abide.head ENABLE ALWAYS TRIGGER head_lowered;

-- As in 0004, but with the epoch, by which a listener knows whether what it hears follows what it has. Only what sets a
-- search_path calls it: to set it once more costs as much as the rest.
DROP FUNCTION abide.tell(text, bigint, integer, bigint, text, boolean);
CREATE FUNCTION abide.tell(
    name text, last bigint, many integer, taken bigint, joined text, inline boolean, epoch text
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    said text;
BEGIN
    IF inline THEN
        said := epoch || ' ' || name || ' ' || last || ' ' || many || ' ' || taken || E'\n' || joined;
        PERFORM pg_notify('abide', 'e ' || left(encode(
            sha256(s.outer_key || sha256(s.inner_key || convert_to(d.oid || ' ' || said, 'UTF8'))), 'hex'), 32) || ' ' || said)
        FROM abide.seal s, pg_database d WHERE d.datname = current_database();
    ELSIF NOT inline THEN
        PERFORM pg_notify('abide', E'd\n' || name || ' ' || last);
    END IF;
END $$;
REVOKE EXECUTE ON FUNCTION abide.tell FROM PUBLIC;

-- A name that is new may have been there when the statement began, and may have been deleted while it waited: then its
-- offsets were chosen by what was so before. Nothing may stay of that; the commit is tried again.
CREATE FUNCTION abide.check_new(newborn text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM abide.epoch e WHERE e.certified AND e.lineage = newborn) THEN
        RAISE EXCEPTION 'the log changed its epoch meanwhile' USING ERRCODE = 'serialization_failure';
    END IF;
END $$;
REVOKE EXECUTE ON FUNCTION abide.check_new FROM PUBLIC;

-- Append one segment without keys, as every commit is where little is published. Returns the channel's head and its
-- lineage, with a space between: a row costs more than a text. A head of 0 is one that abide.drain has put there to lock it.
CREATE FUNCTION abide.store_one(name text, many integer, joined text, inline boolean) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
#variable_conflict use_variable
DECLARE
    upto bigint;
    lineage text;
    taken bigint;
    is_new boolean;
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    LOOP
        INSERT INTO abide.head AS h (channel, head, time, lineage)
        SELECT name, e.floor + many, abide.now_ms(), e.lineage FROM abide.epoch e WHERE e.certified
        ON CONFLICT (channel) DO UPDATE SET
            head = CASE h.head WHEN 0 THEN excluded.head ELSE h.head + many END,
            time = CASE WHEN h.time - excluded.time BETWEEN 1 AND 1000 THEN h.time ELSE excluded.time END,
            lineage = CASE
                WHEN left(h.lineage, 8) = left(excluded.lineage, 8) THEN h.lineage
                WHEN h.head = 0 THEN excluded.lineage
                ELSE abide.continued(h.lineage, h.head, excluded.lineage)
            END
        RETURNING h.head, h.time, h.lineage, h.xmax = '0' INTO upto, taken, lineage, is_new;
        EXIT WHEN FOUND;
        PERFORM abide.enter();
    END LOOP;
    IF is_new THEN
        PERFORM abide.check_new(lineage);
    END IF;
    INSERT INTO abide.log (channel, last, n, time, body) VALUES (name, upto, many, taken, joined);
    PERFORM abide.tell(name, upto, many, taken, joined, inline, left(lineage, 8));
    RETURN upto || ' ' || lineage;
END $$;
REVOKE EXECUTE ON FUNCTION abide.store_one FROM PUBLIC;

-- Append the messages of one commit. Arguments and result are those of abide.append (0001), and each row has the
-- channel's lineage, by which positions are named.
CREATE FUNCTION abide.store(
    channels text[], counts integer[],
    seg_channel integer[], seg_upto integer[], seg_n integer[], seg_body text[], seg_inline boolean[],
    key_channel integer[], key_place integer[], key_text text[], key_hash bytea[]
) RETURNS TABLE (known boolean, i integer, "offset" bigint, hash bytea, lineage text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
#variable_conflict use_column
DECLARE
    heads bigint[];
    times bigint[];
    lineages text[];
    newborn text;
    taken bigint;
BEGIN
    -- What is acknowledged is on disk, whatever the role's or the database's setting.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;

    IF cardinality(key_text) > 0 THEN
        RETURN QUERY
            SELECT true, t.i::integer, k."offset", k.hash,
                coalesce(abide.continued(h.lineage, h.head, e.lineage), e.lineage)
            FROM unnest(key_channel, key_text) WITH ORDINALITY t(c, key, i)
            JOIN abide.key k ON k.channel = channels[t.c] AND k.key = t.key
            CROSS JOIN abide.epoch e
            LEFT JOIN abide.head h ON h.channel = k.channel AND h.head > 0
            WHERE k.time > abide.now_ms() - 600000;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;

    -- One segment without keys, as most commits are where little is published: the same, without the sets.
    IF cardinality(seg_n) = 1 AND cardinality(key_text) = 0 THEN
        RETURN QUERY SELECT false, 1, split_part(s.stored, ' ', 1)::bigint, NULL::bytea, split_part(s.stored, ' ', 2)
            FROM abide.store_one(channels[1], seg_n[1], seg_body[1], seg_inline[1]) s(stored);
        RETURN;
    END IF;

    -- In the order of names, the same for everybody: no two commits can wait for each other.
    LOOP
        WITH moved AS (
            INSERT INTO abide.head AS h (channel, head, time, lineage)
            SELECT t.channel, e.floor + t.n, abide.now_ms(), e.lineage
            FROM unnest(channels, counts) t(channel, n), abide.epoch e WHERE e.certified
            ORDER BY t.channel COLLATE "C"
            ON CONFLICT (channel) DO UPDATE SET
                head = CASE h.head
                    WHEN 0 THEN excluded.head
                    ELSE h.head + excluded.head - (SELECT i.floor FROM abide.installation i)
                END,
                time = CASE WHEN h.time - excluded.time BETWEEN 1 AND 1000 THEN h.time ELSE excluded.time END,
                lineage = CASE
                    WHEN left(h.lineage, 8) = left(excluded.lineage, 8) THEN h.lineage
                    WHEN h.head = 0 THEN excluded.lineage
                    ELSE abide.continued(h.lineage, h.head, excluded.lineage)
                END
            RETURNING h.channel, h.head, h.time, h.lineage, h.xmax = '0' AS is_new
        )
        SELECT array_agg(m.head ORDER BY t.i), array_agg(m.time ORDER BY t.i), array_agg(m.lineage ORDER BY t.i),
            max(m.lineage) FILTER (WHERE m.is_new)
        INTO heads, times, lineages, newborn
        FROM unnest(channels) WITH ORDINALITY t(channel, i) JOIN moved m USING (channel);
        EXIT WHEN heads IS NOT NULL OR channels = '{}';
        PERFORM abide.enter();
    END LOOP;
    IF newborn IS NOT NULL THEN
        PERFORM abide.check_new(newborn);
    END IF;

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

    PERFORM abide.tell(channels[s.c], heads[s.c] - counts[s.c] + s.upto, s.n, times[s.c], s.body, true,
        left(lineages[s.c], 8))
    FROM unnest(seg_channel, seg_upto, seg_n, seg_body, seg_inline) WITH ORDINALITY s(c, upto, n, body, inline, i)
    WHERE s.inline ORDER BY s.i;

    -- Doorbells, at most 28 channels each: the longest names then still fit into one notification.
    PERFORM pg_notify('abide', E'd\n' || string_agg(r.line, E'\n'))
    FROM (
        SELECT channels[d.c] || ' ' || heads[d.c] AS line, (row_number() OVER () - 1) / 28 AS part
        FROM (SELECT s.c FROM unnest(seg_channel, seg_inline) s(c, inline) WHERE NOT s.inline GROUP BY s.c) d
    ) r
    GROUP BY r.part;

    RETURN QUERY SELECT false, t.i::integer, t.head, NULL::bytea, t.lineage
        FROM unnest(heads, lineages) WITH ORDINALITY t(head, lineage, i);
END $$;
REVOKE EXECUTE ON FUNCTION abide.store FROM PUBLIC;

-- For abide.drain, and for servers of before, which know of no lineage.
CREATE OR REPLACE FUNCTION abide.append_one(name text, many integer, joined text, inline boolean) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
    SELECT split_part(abide.store_one(name, many, joined, inline), ' ', 1)::bigint
$$;

CREATE OR REPLACE FUNCTION abide.append(
    channels text[], counts integer[],
    seg_channel integer[], seg_upto integer[], seg_n integer[], seg_body text[], seg_inline boolean[],
    key_channel integer[], key_place integer[], key_text text[], key_hash bytea[]
) RETURNS TABLE (known boolean, i integer, "offset" bigint, hash bytea)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
    SELECT s.known, s.i, s."offset", s.hash FROM abide.store(
        channels, counts, seg_channel, seg_upto, seg_n, seg_body, seg_inline, key_channel, key_place, key_text, key_hash) s
$$;

-- Delete what no history shows any more, as in 0004; and forget, in the given channels, what is idle: a name that holds
-- nothing, and got nothing for twice its ttl and a minute. Names that are new then begin after the highest offset that
-- was forgotten, so that none comes twice. Times that lie ahead are of a clock that had jumped: they become the present.
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
    WITH found AS MATERIALIZED (
        SELECT l.ctid AS at, l.time > now AS is_ahead
        FROM unnest(channels, sizes, ttls) t(channel, size, ttl)
        JOIN abide.head h ON h.channel = t.channel COLLATE "C"
        JOIN abide.log l ON l.channel = h.channel AND (l.time > now + 1000
            OR l.time < now - 60000 AND (l.last <= h.head - t.size OR l.time < now - t.ttl))
        LIMIT most
    ), set_right AS (
        UPDATE abide.log l SET time = now FROM found f WHERE l.ctid = f.at AND f.is_ahead RETURNING 1
    ), deleted AS (
        DELETE FROM abide.log l USING found f WHERE l.ctid = f.at AND NOT f.is_ahead RETURNING 1
    )
    SELECT (SELECT count(*) FROM set_right) + (SELECT count(*) FROM deleted) INTO gone;
    UPDATE abide.key k SET time = now WHERE k.time > now + 1000;
    DELETE FROM abide.key WHERE ctid = ANY (ARRAY(
        SELECT k.ctid FROM abide.key k WHERE k.time < now - 600000 LIMIT most));
    GET DIAGNOSTICS keys_gone = ROW_COUNT;
    IF gone < most THEN
        PERFORM abide.forget(channels, ttls);
    END IF;
    RETURN gone + keys_gone;
END $$;

CREATE FUNCTION abide.forget(channels text[], ttls bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now bigint := abide.now_ms();
    idle text[];
    highest bigint;
BEGIN
    UPDATE abide.head h SET time = now WHERE ctid = ANY (ARRAY(
        SELECT a.ctid FROM abide.head a WHERE a.channel = ANY (channels) AND a.time > now + 1000 FOR UPDATE SKIP LOCKED));
    IF NOT EXISTS (
        SELECT FROM unnest(channels, ttls) t(channel, ttl) JOIN abide.head h ON h.channel = t.channel COLLATE "C"
        WHERE h.time < now - 2 * t.ttl - 60000)
    THEN
        RETURN;
    END IF;
    -- In the order of abide.enter(), which locks this row before any head.
    PERFORM FROM abide.installation FOR UPDATE;
    IF NOT EXISTS (SELECT FROM abide.epoch e WHERE e.certified) THEN
        RETURN;
    END IF;
    -- Under the locks nobody appends: what a look afterwards finds empty stays so. Whoever holds one is no idler.
    SELECT array_agg(s.channel) INTO idle FROM (
        SELECT h.channel FROM unnest(channels, ttls) t(channel, ttl) JOIN abide.head h ON h.channel = t.channel COLLATE "C"
        WHERE h.time < now - 2 * t.ttl - 60000
        FOR UPDATE OF h SKIP LOCKED) s;
    PERFORM set_config('abide.forgetting', 'on', true);
    WITH deleted AS (
        DELETE FROM abide.head h
        WHERE h.channel = ANY (idle) AND NOT EXISTS (SELECT FROM abide.log l WHERE l.channel = h.channel)
        RETURNING h.head)
    SELECT max(d.head) INTO highest FROM deleted d;
    PERFORM set_config('abide.forgetting', '', true);
    UPDATE abide.installation
    SET floor = highest, lineage = left(name, 8) || 'N' || highest + 1 || 'P' || left(epoch, 8)
    WHERE floor < highest;
    IF FOUND THEN
        PERFORM abide.certify();
    END IF;
END $$;
REVOKE EXECUTE ON FUNCTION abide.forget FROM PUBLIC;
COMMENT ON TABLE abide.head IS 'Newest offset of each channel; a name that is forgotten begins again after all that were';

-- Servers of before name every position by the first epoch. Where some are at work it goes on until something happens;
-- where none is, this may be an older backup.
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_stat_activity a
        WHERE a.datname = current_database() AND a.application_name = 'abide listen' AND a.pid <> pg_backend_pid())
    THEN
        PERFORM abide.certify();
    ELSE
        PERFORM abide.open_epoch();
    END IF;
END $$;

-- Rights: all has one owner, who may append may do what a server does, and nobody else anything, whatever ALTER DEFAULT
-- PRIVILEGES gives away.
DO $$
DECLARE
    owner regrole := (SELECT p.proowner FROM pg_catalog.pg_proc p WHERE p.oid = 'abide.append'::regproc);
    fresh regprocedure[] := (
        SELECT array_agg(p.oid::regprocedure) FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'abide'::regnamespace AND p.proname IN (
            'certify', 'open_epoch', 'enter', 'continued', 'head_went_back', 'head_lowered', 'tell', 'check_new', 'store_one', 'store',
            'forget'));
    thing regprocedure;
    role text;
BEGIN
    EXECUTE format('ALTER VIEW abide.epoch OWNER TO %s', owner);
    FOREACH thing IN ARRAY fresh LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO %s', thing, owner);
    END LOOP;
    FOR role, thing IN
        SELECT a.grantee::regrole, p.oid
        FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
        WHERE p.oid = ANY (fresh) AND p.proname <> 'continued' AND a.grantee NOT IN (0, p.proowner)
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %s', thing, role);
    END LOOP;
    FOR role IN
        SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
        WHERE p.oid = 'abide.append'::regproc AND a.privilege_type = 'EXECUTE' AND a.grantee <> p.proowner
    LOOP
        EXECUTE format('GRANT SELECT ON abide.epoch TO %s', role);
        EXECUTE format('GRANT EXECUTE ON FUNCTION abide.enter, abide.store, abide.store_one TO %s', role);
    END LOOP;
END $$;
