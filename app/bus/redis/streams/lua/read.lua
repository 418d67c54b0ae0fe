-- Reads messages of one channel past an offset, of those that a history shows, up to the first that is missing.
-- KEYS: head, log. ARGV: after, limit, size, ttl (ms), bytes (at most, but one message at least).
-- Returns head, lineage, secret, first (of the history), offset (of the first message), times (joined by a space), and
-- messages (joined by U+001E).
local after, limit, size, ttl, bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local place = redis.call('HMGET', KEYS[1], 'head', 'lineage', 'secret')
local head = tonumber(place[1] or 0)
local function at(offset, count)
    return redis.call('XRANGE', KEYS[2], string.format('%d', offset), '+', 'COUNT', count)
end
local function offset_of(entry)
    return tonumber(entry[1]:match('^%d+'))
end

local function first_shown()
    local oldest = at(0, 1)[1]
    if size == 0 or not oldest then
        return head + 1
    end
    local low, high = math.max(offset_of(oldest), head - size + 1), head + 1
    local clock = redis.call('TIME')
    local youngest = clock[1] * 1000 + math.floor(clock[2] / 1000) - ttl
    local next = low
    while low < high do -- times ascend with offsets
        local entry = at(next, 1)[1]
        if entry and tonumber(entry[2][2]) < youngest then
            low = offset_of(entry) + 1
        else
            high = next
        end
        next = math.floor((low + high) / 2)
    end
    return math.min(low, head + 1)
end

local first = first_shown()
local offset = math.max(after + 1, first)
local times, datas, used = {}, {}, 0
while #datas < limit and offset + #datas <= head do
    local entries = at(offset + #datas, math.min(limit - #datas, 50))
    local begun = #datas
    for _, entry in ipairs(entries) do
        local found = offset_of(entry)
        if #datas == 0 then
            offset = found
        end
        used = used + #entry[2][4]
        if found ~= offset + #datas or found > head or (used > bytes and #datas > 0) then
            limit = #datas
            break
        end
        times[#times + 1], datas[#datas + 1] = entry[2][2], entry[2][4]
    end
    if #datas == begun then
        break
    end
end
return {
    string.format('%d', head), place[2] or '0', place[3] or '', string.format('%d', first), string.format('%d', offset),
    table.concat(times, ' '), table.concat(datas, '\30'),
}
