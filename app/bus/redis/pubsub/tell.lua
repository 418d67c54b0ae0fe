-- Publishes one text, where messages can be published as well.
-- KEYS[1] as in publish.lua; ARGV: topic, text
redis.call('DEL', KEYS[1])
return redis.call('PUBLISH', ARGV[1], ARGV[2])
