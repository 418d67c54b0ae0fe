-- Publishes records in order, each with an idempotency key once, and answers each with one text:
-- "" published now, "<digest>" its key was used for the message with this digest, "!<error>" refused.
--
-- KEYS[1]   a key that nobody has
-- ARGV[1]   for how many milliseconds an idempotency key is remembered
-- ARGV      then four for each item: topic, messages, idempotency key or "", digest
local DELIMITER = '\30'
local answers, topics, bodies, keys = {}, {}, {}, {}

for at = 2, #ARGV, 4 do
  local topic, body, key, digest = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local answer = key ~= '' and redis.call('GET', key) or ''
  if key ~= '' and answer == '' then
    local set = redis.pcall('SET', key, digest, 'PX', ARGV[1])
    if set.err then
      answer = '!' .. set.err
    else
      keys[#keys + 1] = key
    end
  end
  if answer == '' then
    if not bodies[topic] then
      topics[#topics + 1] = topic
      bodies[topic] = {}
    end
    table.insert(bodies[topic], body)
  end
  answers[#answers + 1] = answer
end

-- Refused where nothing may be written: a replica would publish to its own clients alone, and nobody else would know.
-- It comes after the keys, because Redis takes every write of a function that has written, however little memory is left.
redis.call('DEL', KEYS[1])

local now = redis.call('TIME')
local time = string.format('%d%03d', now[1], math.floor(now[2] / 1000))
for _, topic in ipairs(topics) do
  local heard = redis.pcall('PUBLISH', topic, time .. DELIMITER .. table.concat(bodies[topic], DELIMITER))
  if type(heard) == 'table' then
    for _, key in ipairs(keys) do
      redis.call('DEL', key)
    end
    return heard
  end
end
return answers
