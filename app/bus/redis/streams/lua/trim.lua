-- Deletes what no history shows any more, but nothing younger than `grace`, which followers may still have to fetch.
-- KEYS: head, log. ARGV: size, ttl (ms), grace (ms). Returns 1 where something is left to be trimmed later.
local size, ttl, grace = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local head = tonumber(redis.call('HGET', KEYS[1], 'head') or 0)
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function at(offset)
    return redis.call('XRANGE', KEYS[2], string.format('%d', offset), '+', 'COUNT', 1)[1]
end
local function offset_of(entry)
    return tonumber(entry[1]:match('^%d+'))
end

local oldest = at(0)
if not oldest then
    return 0
end
-- The first offset whose message is not older than `age`; times ascend with offsets.
local function first_within(age)
    local low, high = offset_of(oldest), head + 1
    while low < high do
        local middle = math.floor((low + high) / 2)
        local entry = at(middle)
        if entry and tonumber(entry[2][2]) < now - age then
            low = offset_of(entry) + 1
        else
            high = middle
        end
    end
    return low
end

local wanted = math.max(head - size + 1, first_within(ttl))
local keep = math.min(wanted, first_within(grace))
redis.call('XTRIM', KEYS[2], 'MINID', '~', string.format('%d', keep))
return keep < wanted and 1 or 0
