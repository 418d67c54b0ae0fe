-- A message that is alone, as most are: committed by a query of its own, published from SQL with fewer questions.

-- Append one segment without keys, as every commit is where little is published: what abide.append does
-- with one, without arrays, which cost a lone message a tenth of its time. Returns the channel's head.
CREATE FUNCTION abide.append_one(name text, many integer, joined text, inline boolean) RETURNS bigint
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
    PERFORM pg_notify('abide', CASE WHEN inline
        THEN 'i ' || name || ' ' || upto || ' ' || many || ' ' || taken || E'\n' || joined
        ELSE E'd\n' || name || ' ' || upto END);
    RETURN upto;
END $$;
REVOKE EXECUTE ON FUNCTION abide.append_one FROM PUBLIC;

-- Who may append may append one: a server whose role is not the owner goes on after the upgrade.
DO $$
DECLARE
    role regrole;
BEGIN
    FOR role IN
        SELECT a.grantee::regrole FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
        WHERE p.oid = 'abide.append'::regproc AND a.privilege_type = 'EXECUTE' AND a.grantee NOT IN (0, p.proowner)
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION abide.append_one TO %s', role);
    END LOOP;
END $$;

-- As in 0002, where the comment tells why it is written so; but what a key must be is asked on its own,
-- because an expression costs each transaction that comes to it as much to prepare as to evaluate.
CREATE OR REPLACE FUNCTION abide.publish(channel text, data jsonb, key text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    message pg_catalog.text := data::pg_catalog.text;
BEGIN
    IF (channel OPERATOR(pg_catalog.~) '^[A-Za-z0-9_.:-]+$' AND pg_catalog.octet_length(channel) OPERATOR(pg_catalog.<=) 255
        AND pg_catalog.octet_length(message) OPERATOR(pg_catalog.<=) 1048576) IS NOT TRUE
    THEN
        PERFORM abide.refuse(channel, message, key);
    ELSIF key IS NOT NULL THEN
        IF key OPERATOR(pg_catalog.!~) '^[!-~]+$' OR pg_catalog.octet_length(key) OPERATOR(pg_catalog.>) 255 THEN
            PERFORM abide.refuse(channel, message, key);
        END IF;
    END IF;
    INSERT INTO abide.outbox (channel, data, key) VALUES (channel, message, key);
    IF (pg_catalog.to_timestamp(pg_catalog.pg_sequence_last_value('abide.awake'::pg_catalog.regclass)
        OPERATOR(pg_catalog./) 1000.0::pg_catalog.float8) OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()) IS NOT TRUE
    THEN
        PERFORM pg_catalog.pg_notify('abide', 'b');
    END IF;
END $$;
