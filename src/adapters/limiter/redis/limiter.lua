-- All limits of one tenant, in one step. Each account is a hash of what was used of it and a sorted set of its open
-- reservations, by the time when they expire. Limits are arguments: they are not stored here.
--
-- KEYS: the tenant's mark, then for each account its hash and its set.
-- ARGV: 1 operation, 2 time in ms (0: the server's), 3 life of a reservation in ms, 4 whether the mark has to be there,
--   5 reservation, 6 requests, 7 tokens, 8 calls, 9 cost, 10 tokens and 11 cost that were used,
--   then for each account: its limits of requests, tokens, calls, money a day, money a month (-1: none), and what the ledger
--   knows to be spent in the day and the month. For `renew`, instead: one member of its set for each account.
-- Answer: `ok`, `no` (it does not fit) or `unmarked`, the time, then for each account: requests and tokens missing (60,000ths),
--   calls, money held, money spent in the day and the month.
--
-- Numbers are doubles: whole numbers below 2^53 are exact. Rates stay below it by the largest limit (10^11 a minute);
-- money does up to 9 million dollars, and beyond that is rounded to a nano-dollar or two.

local WINDOW, MOST, DAY = 60000, 9007199254740991, 86400000
-- Money is stored until its month is surely over.
local KEPT = 32 * DAY
local WIDTH = 7

local operation, life = ARGV[1], tonumber(ARGV[3])
local now = tonumber(ARGV[2])
if now == 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function text(number) return string.format('%.0f', number) end

if operation == 'probe' then
  redis.call('SET', KEYS[1], '1', 'PX', 60000)
  return { 'ok', text(now) }
end

if operation == 'renew' then
  for i = 2, #KEYS, 2 do
    local set, member = KEYS[i + 1], ARGV[4 + i / 2]
    -- A reservation that has expired and was not charged yet is renewed; one that was charged is not.
    if redis.call('ZSCORE', set, member) then
      redis.call('ZADD', set, text(now + life), member)
      for _, key in ipairs({ KEYS[i], set }) do
        if redis.call('PTTL', key) < 2 * life then redis.call('PEXPIRE', key, text(2 * life)) end
      end
    end
  end
  return { 'ok', text(now) }
end

if ARGV[4] == '1' and redis.call('EXISTS', KEYS[1]) == 0 then return { 'unmarked', text(now) } end

-- Months are counted in years that begin in March, in which every month but the last has a fixed length.
local today = math.floor(now / DAY)
local function month_of(day)
  local days = day + 719468
  local era = math.floor(days / 146097)
  local of_era = days - era * 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  return (era * 400 + year) * 12 + math.floor((5 * of_year + 2) / 153)
end
local this_month = month_of(today)

local demand = {
  requests = tonumber(ARGV[6]), tokens = tonumber(ARGV[7]), calls = tonumber(ARGV[8]), cost = tonumber(ARGV[9]),
}
local member = ARGV[5] .. ':' .. ARGV[8] .. ':' .. ARGV[9]

local function spend(account, cost)
  account.day = account.day + cost
  account.month = account.month + cost
end

-- Reads an account and brings it up to now: rates refill, periods roll over, expired reservations are charged in full.
local function open(i)
  local key, set, at = KEYS[2 * i], KEYS[2 * i + 1], 11 + WIDTH * (i - 1)
  local function argument(n) return tonumber(ARGV[at + n]) end
  local kept = redis.call('HMGET', key, 'requests', 'tokens', 'at', 'calls', 'held', 'today', 'day', 'this_month', 'month')
  local function value(n) return tonumber(kept[n] or 0) end
  local account = {
    key = key, set = set,
    limits = { requests = argument(1), tokens = argument(2), calls = argument(3), day = argument(4), month = argument(5) },
    at = now,
    calls = value(4), held = value(5),
    today = today, this_month = this_month,
    day = 0, month = 0,
  }
  -- The server has only a calendar clock. If it was set back, nothing refills in that step, and time goes on from
  -- there; if it was set forward, at most a minute's worth refills.
  local passed = math.max(0, now - (kept[3] and value(3) or now))
  -- The time is stored even if nothing else changes: time passes from there on, also for callers who are refused.
  if value(3) > now or value(6) > today or value(8) > this_month then account.changed = true end
  for n, name in ipairs({ 'requests', 'tokens' }) do
    local limit = account.limits[name]
    account[name] = limit >= 0 and math.max(0, value(n) - limit * passed) or 0
  end
  -- A calendar that was set back creates no money: what was spent stays spent, in the period that it is now.
  if today <= value(6) then account.day = value(7) end
  if this_month <= value(8) then account.month = value(9) end
  -- When a process starts, its ledger has an estimate of each call that died with the previous process, and the held
  -- amounts are the reservations of just these calls, which are charged when they expire: one of the two is enough.
  local known = operation == 'begin' and account.held or 0
  if argument(6) - known > account.day then account.day, account.changed = argument(6) - known, true end
  if argument(7) - known > account.month then account.month, account.changed = argument(7) - known, true end
  -- No reservation lives longer than one life from now, whatever the clock was when it was made or renewed.
  for _, late in ipairs(redis.call('ZRANGEBYSCORE', set, '(' .. text(now + life), '+inf', 'LIMIT', 0, 500)) do
    redis.call('ZADD', set, text(now + life), late)
  end
  -- Not all at once, so that nobody waits long for it.
  for _, expired in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', text(now), 'LIMIT', 0, 500)) do
    redis.call('ZREM', set, expired)
    local calls, cost = string.match(expired, ':(%d+):(%d+)$')
    account.calls = math.max(0, account.calls - tonumber(calls))
    account.held = math.max(0, account.held - tonumber(cost))
    spend(account, tonumber(cost))
    account.changed = true
  end
  return account
end

-- Stores an account, or deletes it if its state equals that of a new one.
local function close(account)
  local rest = 0
  for _, name in ipairs({ 'requests', 'tokens' }) do
    if account[name] > 0 then rest = math.max(rest, math.ceil(account[name] / account.limits[name])) end
  end
  if redis.call('ZCARD', account.set) > 0 then rest = math.max(rest, 2 * life) end
  if account.held > 0 or account.day > 0 or account.month > 0 then rest = math.max(rest, KEPT) end
  if rest == 0 then
    redis.call('DEL', account.key)
    return
  end
  redis.call('HSET', account.key,
    'requests', text(account.requests), 'tokens', text(account.tokens), 'at', text(account.at),
    'calls', text(account.calls), 'held', text(account.held),
    'today', text(account.today), 'day', text(account.day),
    'this_month', text(account.this_month), 'month', text(account.month))
  -- Capped: Redis accepts no expiry beyond what a double can hold, and no debt lasts that many years.
  redis.call('PEXPIRE', account.key, text(math.min(rest, 400 * DAY)))
  redis.call('PEXPIRE', account.set, text(math.max(math.min(rest, 400 * DAY), 2 * life)))
end

local function fits(account)
  local limits = account.limits
  for _, name in ipairs({ 'requests', 'tokens' }) do
    local limit = limits[name]
    if limit >= 0 and (demand[name] > limit or account[name] + demand[name] * WINDOW > limit * WINDOW) then return false end
  end
  if limits.calls >= 0 and demand.calls > 0 and account.calls + demand.calls > limits.calls then return false end
  for _, name in ipairs({ 'day', 'month' }) do
    local limit, spent = limits[name], account[name]
    if limit >= 0 and (spent >= limit or spent + account.held + demand.cost > limit) then return false end
  end
  return true
end

local function use(account, name, amount)
  if account.limits[name] >= 0 then
    account[name] = math.max(0, math.min(MOST, account[name] + amount * WINDOW))
  end
end

local accounts, answer = {}, 'ok'
for i = 1, (#KEYS - 1) / 2 do
  accounts[i] = open(i)
  if operation == 'reserve' and not fits(accounts[i]) then answer = 'no' end
end

for _, account in ipairs(accounts) do
  if operation == 'reserve' and answer == 'ok' then
    use(account, 'requests', demand.requests)
    use(account, 'tokens', demand.tokens)
    account.calls = account.calls + demand.calls
    account.held = account.held + demand.cost
    if ARGV[5] ~= '' then redis.call('ZADD', account.set, text(now + life), member) end
    account.changed = true
  elseif operation == 'settle' and redis.call('ZREM', account.set, member) == 1 then
    -- A missing reservation was settled before, or has expired and was charged: it is not counted twice.
    use(account, 'tokens', tonumber(ARGV[10]) - demand.tokens)
    account.calls = math.max(0, account.calls - demand.calls)
    account.held = math.max(0, account.held - demand.cost)
    spend(account, tonumber(ARGV[11]))
    account.changed = true
  end
end

if operation == 'owed' then redis.call('SET', KEYS[1], '1', 'PX', text(KEPT)) end

local answers = { answer, text(now) }
for _, account in ipairs(accounts) do
  if account.changed then close(account) end
  for _, name in ipairs({ 'requests', 'tokens', 'calls', 'held', 'day', 'month' }) do
    answers[#answers + 1] = text(account[name])
  end
end
return answers
