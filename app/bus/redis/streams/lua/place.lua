-- Says where a channel is, and gives a channel without messages its first epoch, so that a follower can know it.
-- Where there is no room to write it down, the channel is said to be empty, which it is.
-- KEYS: head. ARGV: newborn, secret, ttl (ms). Returns head, lineage, secret.
local found = redis.call('HMGET', KEYS[1], 'head', 'lineage', 'secret')
if not found[1] then
    local by = redis.call('INFO', 'server'):match('run_id:(%w+)'):sub(1, 16)
        .. redis.call('INFO', 'replication'):match('master_replid:(%w+)'):sub(1, 16)
    found = {'0', ARGV[1] .. 'F1P0', ARGV[2]}
    local stored = redis.pcall('HSET', KEYS[1], 'head', 0, 'time', 0, 'lineage', found[2], 'by', by, 'secret', found[3])
    if type(stored) == 'table' and stored.err then
        if stored.err:find('^-?READONLY') then
            return redis.error_reply(stored.err)
        end
        return {'0', '0', ''}
    end
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return found
