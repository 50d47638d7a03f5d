-- The load of every warm case: sends the requests of a file, if there is one, and reports exact figures as JSON.
--
-- REQUESTS names a file of raw requests separated by NUL; each connection takes the next one. Without it wrk sends
-- its own request over and over, which costs the load generator least.

local file = os.getenv("REQUESTS")
if file then
  local requests, at = {}, 0
  for text in io.open(file, "rb"):read("*a"):gmatch("[^%z]+") do
    requests[#requests + 1] = text
  end
  function request()
    at = at % #requests + 1
    return requests[at]
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "seconds": %.6f, "bytes": %d, "p50_us": %.1f, "p99_us": %.1f, "errors": %d}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.timeout + errors.status))
end
