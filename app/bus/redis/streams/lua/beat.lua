-- Writes and publishes, as a commit does, but no message: what works here works for commits.
-- KEYS: probe. ARGV: topic, text, replicas, publish.
local replication = redis.call('INFO', 'replication')
if tonumber(replication:match('connected_slaves:(%d+)') or 0) < tonumber(ARGV[3]) then
    return redis.error_reply('NOREPLICAS Redis has fewer replicas than redis.min_replicas')
end
redis.call('SET', KEYS[1], '', 'PX', 1000)
return redis.call(ARGV[4], ARGV[1], ARGV[2])
