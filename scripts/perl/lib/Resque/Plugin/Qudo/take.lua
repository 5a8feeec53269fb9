-- Takes the next job of the first queue that has one and notes it as its worker's, in one step: a worker that is killed
-- between a pop and its note would lose the job. The note keeps the queue's text.
--
-- KEYS  1 string worker:<id>, the note   2 … lists, the queues
-- ARGV  1 how the note begins, up to the queue's name   2 … the queues' names, as JSON
-- Result  {number of the queue, text}, or nothing when all are empty

for number = 2, #KEYS do
  local text = redis.call('LPOP', KEYS[number])
  if text then
    redis.call('SET', KEYS[1], ARGV[1] .. ARGV[number] .. ',"payload":' .. text .. '}')
    return {number - 2, text}
  end
end
