-- Taking back tokens and closing connections from SQL, in the application's transaction; and names of channels that hold
-- the subjects of logins: auth0|65f…, mail@example.com.

-- As in 0006, but for the characters of a name.
CREATE OR REPLACE FUNCTION abide.refuse(channel text, message text, key text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF channel IS NULL OR channel !~ '^[A-Za-z0-9_.:|@+=~''-]{1,255}$' THEN
        RAISE EXCEPTION 'abide.publish: % is not a channel: a name has 1 to 255 letters, digits, _ - . : | @ + = ~ ''',
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

-- The same.
CREATE OR REPLACE FUNCTION abide.publish(channel text, data anycompatible, key text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    message pg_catalog.text;
BEGIN
    IF pg_catalog.pg_typeof(data)::pg_catalog.oid OPERATOR(pg_catalog.<>) ALL ('{3802,114,25,1043}'::pg_catalog.oid[]) THEN
        PERFORM abide.refuse_type(pg_catalog.pg_typeof(data));
    END IF;
    message := data::pg_catalog.text;
    IF (channel OPERATOR(pg_catalog.~) '^[A-Za-z0-9_.:|@+=~''-]+$' AND pg_catalog.octet_length(channel) OPERATOR(pg_catalog.<=) 255
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

-- The same.
CREATE OR REPLACE FUNCTION abide.look_at(seq bigint, channel text, data text, key text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong text;
BEGIN
    data := abide.as_json(data);
    wrong := CASE
        WHEN channel !~ '^[A-Za-z0-9_.:|@+=~''-]{1,255}$' THEN 'its channel is no name of 1 to 255 letters, digits, _ - . : | @ + = ~ '''
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

-- As in 0005, but $access keeps what was taken back for as long as tokens live by default, whatever the caller says:
-- servers from before this version treat it as an undeclared channel. It is never forgotten.
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
        FROM (
            SELECT u.channel, greatest(u.size, CASE u.channel WHEN '$access' THEN 1000000 END) AS size,
                greatest(u.ttl, CASE u.channel WHEN '$access' THEN 86400000 END) AS ttl
            FROM unnest(channels, sizes, ttls) u(channel, size, ttl)
        ) t
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
        PERFORM abide.forget(array_agg(u.channel), array_agg(u.ttl))
        FROM unnest(channels, ttls) u(channel, ttl) WHERE u.channel <> '$access';
    END IF;
    RETURN gone + keys_gone;
END $$;

-- Put an entry into $access, a channel that only these functions and servers write to. It is published as by abide.publish,
-- where the comment (0002, 0006) tells who is rung, and why the outbox comes before the sequence.
CREATE FUNCTION abide.put_access(entry jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO abide.outbox (channel, data, checked) VALUES ('$access', entry::text, true);
    IF (to_timestamp(pg_sequence_last_value('abide.awake'::regclass) / 1000.0::float8) > clock_timestamp()) IS NOT TRUE THEN
        IF current_setting('max_prepared_transactions') = '0' AND pg_notification_queue_usage() < 0.5 THEN
            PERFORM pg_notify('abide', 'b');
        END IF;
    END IF;
END $$;
COMMENT ON FUNCTION abide.put_access IS 'Tells all servers, if this transaction commits, what was taken back';

CREATE FUNCTION abide.check_claim(caller text, claim text, value text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF value IS NULL OR char_length(value) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION '%: % is no % of a token: pass the text that the tokens have as "%", 1 to 255 characters',
            caller, coalesce(quote_literal(left(value, 300)), 'NULL'), claim, claim
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END $$;
COMMENT ON FUNCTION abide.check_claim IS 'Raises an error unless a token can have this value as its sub or jti';

-- The default is the time of the call. now() is the time at which the transaction began, and a token may have been issued
-- since then. An hour is room for clocks that differ: a time further ahead is a mistake, such as milliseconds.
CREATE FUNCTION abide.revoke(sub text, before timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM abide.check_claim('abide.revoke', 'sub', sub);
    IF before IS NULL OR NOT isfinite(before) THEN
        RAISE EXCEPTION 'abide.revoke: % is no time: pass the time before which the tokens were issued, or leave it out',
            coalesce(before::text, 'NULL') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF before > clock_timestamp() + interval '1 hour' THEN
        RAISE EXCEPTION 'abide.revoke: % is more than an hour ahead: pass a time up to now, or leave it out',
            before USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM abide.put_access(jsonb_build_object(
        'revoke', jsonb_build_object('sub', sub, 'before', date_part('epoch', before))));
END $$;
COMMENT ON FUNCTION abide.revoke IS
    'If this transaction commits, refuse the tokens of a subject that were issued before, and close what they opened';

CREATE FUNCTION abide.revoke_token(jti text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM abide.check_claim('abide.revoke_token', 'jti', jti);
    PERFORM abide.put_access(jsonb_build_object('revoke', jsonb_build_object('jti', jti)));
END $$;
COMMENT ON FUNCTION abide.revoke_token IS 'If this transaction commits, refuse one token, and close what it opened';

CREATE FUNCTION abide.disconnect(sub text, channel text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM abide.check_claim('abide.disconnect', 'sub', sub);
    IF channel !~ '^[A-Za-z0-9_.:|@+=~''-]{1,255}$' THEN
        RAISE EXCEPTION 'abide.disconnect: % is not a channel: pass the name of one, or leave it out for all channels',
            quote_literal(left(channel, 300)) USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM abide.put_access(jsonb_build_object('disconnect', jsonb_build_object('sub', sub, 'channel', channel)));
END $$;
COMMENT ON FUNCTION abide.disconnect IS
    'If this transaction commits, close the connections of a subject, or its subscriptions to one channel';

-- Rights: what is new has the owner of the rest, and is for nobody else, whatever ALTER DEFAULT PRIVILEGES gives away.
DO $$
DECLARE
    owner regrole := (SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.oid = 'abide.outbox'::regclass);
    new regprocedure;
    role text;
BEGIN
    FOREACH new IN ARRAY ARRAY['abide.put_access(jsonb)', 'abide.check_claim(text, text, text)',
        'abide.revoke(text, timestamptz)', 'abide.revoke_token(text)', 'abide.disconnect(text, text)']::regprocedure[]
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
END $$;
