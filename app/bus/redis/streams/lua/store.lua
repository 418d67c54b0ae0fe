-- Stores one commit: the messages of some channels, whose keys are all in one slot of a cluster.
--
-- KEYS, for each channel: head, log, done, and then its idempotency keys.
-- ARGV: token, newborn, secret, replicas, lifetime (ms), publish; and for each channel: topic, log_ttl (ms),
--   head_ttl (ms), most (bytes of messages in a publication), body, keys; and for each of its keys: place, digest.
--   `body` has the messages, joined by U+001E. `place` is the number of a message in it, from 1.
-- Returns for each channel "<first> <lineage>" and for each key that was known " <place> <offset> <digest>"; or "!" and
--   why nothing of the channel was stored.
--
-- The token names the commit. One that was stored before is not stored again: `done` has what was returned then.
-- `by` says which process, in which of its terms as a primary, wrote the head. Where it is another one, history may
-- have been rewritten, and an epoch begins (docs/design/epochs.md).
local token, newborn, fresh, least, lifetime, publish = unpack(ARGV, 1, 6)
local replication = redis.call('INFO', 'replication')
local run, term = redis.call('INFO', 'server'):match('run_id:(%w+)'), replication:match('master_replid:(%w+)')
if not run or not term then
    return redis.error_reply('ERR INFO has no run_id and master_replid, which tell whether history was rewritten')
end
local by = run:sub(1, 16) .. term:sub(1, 16)
if tonumber(replication:match('connected_slaves:(%d+)') or 0) < tonumber(least) then
    return redis.error_reply('NOREPLICAS Redis has fewer replicas than redis.min_replicas')
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function continued(lineage, head)
    local rest = lineage:find('P', 1, true) and lineage:sub(1, 600) or lineage:sub(1, 8)
    return string.format('%sF%dP%s', newborn, head + 1, rest)
end

-- The last offset that the log has given out, when the head is gone or behind it.
local function last_given(log)
    if redis.call('EXISTS', log) == 0 then
        return 0
    end
    local info = redis.call('XINFO', 'STREAM', log)
    for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then
            return tonumber(info[i + 1]:match('^%d+'))
        end
    end
end

-- Splits the messages into those whose key is known, and those to store.
local function new_ones(body, known)
    local found, place = {}, 0
    for data in (body .. '\30'):gmatch('([^\30]*)\30') do
        place = place + 1
        if not known[place] then
            found[#found + 1] = data
        end
    end
    return found
end

local function tell(topic, secret, lineage, head, time, most, datas)
    local body = table.concat(datas, '\30')
    local payload = string.format('d %d', head)
    if #body <= most then
        local sealed = string.format('%s %d %d %.0f\n%s', lineage:sub(1, 8), head, #datas, time, body)
        payload = 'e ' .. redis.sha1hex(secret .. redis.sha1hex(secret .. sealed)) .. ' ' .. sealed
    end
    redis.pcall(publish, topic, payload)
end

local function append(k, a)
    local head_key, log, done = KEYS[k], KEYS[k + 1], KEYS[k + 2]
    local topic, log_ttl, head_ttl, most, body, keys = unpack(ARGV, a, a + 5)
    local before = redis.call('GET', done)
    if before and before:sub(1, #token) == token then
        return before:sub(#token + 2)
    end
    local head, time, lineage, writer, secret = unpack(redis.call('HMGET', head_key, 'head', 'time', 'lineage', 'by', 'secret'))
    local given = head and tonumber(head) or last_given(log)
    if not head then
        lineage, secret = newborn .. 'F1P0', fresh
    elseif writer ~= by then
        lineage = continued(lineage, given)
    end
    local known, replies = {}, {}
    for i = 1, keys do
        local stored = redis.call('GET', KEYS[k + 2 + i])
        if stored then
            known[tonumber(ARGV[a + 4 + 2 * i])] = true
            replies[#replies + 1] = ARGV[a + 4 + 2 * i] .. ' ' .. stored
        end
    end
    local datas = new_ones(body, known)
    time = math.max(now, tonumber(time or 0))
    local stamp = string.format('%.0f', time)
    local first = given + 1
    for i, data in ipairs(datas) do
        local stored = redis.pcall('XADD', log, string.format('%d-0', given + i), 't', stamp, 'd', data)
        if type(stored) == 'table' and stored.err then
            if i > 1 or not stored.err:find('equal or smaller') then
                error(stored.err, 0)
            end
            -- The head was lowered, by hand or in part of a restored backup.
            lineage, given = continued(lineage, last_given(log)), last_given(log)
            first = given + 1
            redis.call('XADD', log, string.format('%d-0', given + i), 't', stamp, 'd', data)
        end
    end
    given = given + #datas
    redis.call('HSET', head_key, 'head', string.format('%d', given), 'time', stamp, 'lineage', lineage, 'by', by, 'secret', secret)
    redis.call('PEXPIRE', head_key, head_ttl)
    redis.call('PEXPIRE', log, log_ttl)
    local offset = first
    local place_of = {}
    for place = 1, #datas + #replies do
        if not known[place] then
            place_of[place] = offset
            offset = offset + 1
        end
    end
    for i = 1, keys do
        local place = tonumber(ARGV[a + 4 + 2 * i])
        if not known[place] then
            redis.call('SET', KEYS[k + 2 + i], string.format('%d ', place_of[place]) .. ARGV[a + 5 + 2 * i], 'PX', lifetime)
        end
    end
    local reply = string.format('%d %s', first, lineage)
    if #replies > 0 then
        reply = reply .. ' ' .. table.concat(replies, ' ')
    end
    redis.call('SET', done, token .. ' ' .. reply, 'PX', 60000)
    if #datas > 0 then
        tell(topic, secret, lineage, given, time, tonumber(most), datas)
    end
    return reply
end

local answers, k, a = {}, 1, 7
while a <= #ARGV do
    local keys = tonumber(ARGV[a + 5])
    local worked, answer = pcall(append, k, a)
    if not worked then
        answer = type(answer) == 'table' and answer.err or tostring(answer)
        if answer:find('^-?READONLY') or answer:find('^-?OOM') or answer:find('^-?MISCONF') then
            return redis.error_reply(answer) -- which the first write meets, if any does
        end
        answer = '!' .. answer
    end
    answers[#answers + 1] = answer
    k, a = k + 3 + keys, a + 6 + 2 * keys
end
return answers
