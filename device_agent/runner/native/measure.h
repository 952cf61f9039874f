// Repetitions of workloads, timed; the raw samples go out as they come, one JSON line a repetition.
#pragma once

#include <cinttypes>
#include <cstdio>
#include <string>
#include <vector>

#include "chain.h"
#include "clock.h"
#include "prefixes.h"

namespace fulcrum {

// The same pseudo-random prompt in every run (Knuth's MMIX multiplier): no file to push, no token out of range.
inline std::vector<int64_t> synthetic_prompt(int length, int vocab) {
  std::vector<int64_t> tokens;
  uint64_t x = 1;
  for (int i = 0; i < length; ++i) {
    x = x * 6364136223846793005ULL + 1442695040888963407ULL;
    tokens.push_back(static_cast<int64_t>((x >> 33) % static_cast<uint64_t>(vocab)));
  }
  return tokens;
}

struct Best {
  int64_t token = 0, runner_up = 0;
  float logit = 0, runner_up_logit = 0;
};

inline Best best_two(const float* logits, int vocab) {
  Best best{0, 1, logits[0], logits[1]};
  if (logits[1] > logits[0]) best = {1, 0, logits[1], logits[0]};
  for (int i = 2; i < vocab; ++i) {
    if (logits[i] > best.logit) best = {i, best.token, logits[i], best.logit};
    else if (logits[i] > best.runner_up_logit) best.runner_up = i, best.runner_up_logit = logits[i];
  }
  return best;
}

inline std::string joined(const std::vector<int64_t>& values) {
  std::string text;
  for (size_t i = 0; i < values.size(); ++i) text += (i ? "," : "") + std::to_string(values[i]);
  return text;
}

// Runs until both the count and the seconds are reached, or the cap (if there is one) is over.
template <typename Run>
void repeat(int runs, double seconds, double cap, Run run) {
  const int64_t start = now_ns();
  for (int done = 0;; ++done) {
    const double elapsed = static_cast<double>(now_ns() - start) * 1e-9;
    if ((done >= runs && elapsed >= seconds) || (done > 0 && cap > 0 && elapsed >= cap)) return;
    run();
  }
}

// Decodes `count` tokens after `token`, one by one; the time of each, and in `token` the last one.
inline std::vector<int64_t> decode(Chain& chain, int64_t& token, int count, int vocab) {
  std::vector<int64_t> times;
  for (int i = 0; i < count; ++i) {
    const int64_t start = now_ns();
    token = best_two(chain.feed({token}), vocab).token;
    times.push_back(now_ns() - start);
  }
  return times;
}

// A prompt from an empty state; its time to the first logits, and the token they choose.
inline int64_t prefill(Chain& chain, const std::vector<int64_t>& prompt, int vocab, int64_t& token) {
  chain.clear();
  const int64_t start = now_ns();
  token = best_two(chain.feed(prompt), vocab).token;
  return now_ns() - start;
}

// The main workload: prefill and decode from an empty state, again and again.
inline void measure_turns(Chain& chain, const Plan& plan) {
  const auto prompt = synthetic_prompt(plan.prefill, plan.vocab);
  int64_t token = 0;
  bool first = true;
  repeat(plan.warmup, plan.warmup_seconds, plan.max_seconds, [&] {
    const int64_t taken = prefill(chain, prompt, plan.vocab, token);
    decode(chain, token, plan.decode, plan.vocab);
    if (first) printf("{\"event\":\"first\",\"prefill_ns\":%" PRId64 "}\n", taken);
    first = false;
  });
  repeat(plan.repetitions, plan.repetition_seconds, plan.max_seconds, [&] {
    const int64_t taken = prefill(chain, prompt, plan.vocab, token);
    const auto times = decode(chain, token, plan.decode, plan.vocab);
    printf("{\"event\":\"repetition\",\"prefill_ns\":%" PRId64 ",\"decode_ns\":[%s]}\n", taken, joined(times).c_str());
  });
}

inline void measure_prefill(Chain& chain, const Plan& plan, int prefill_tokens, size_t number) {
  const auto prompt = synthetic_prompt(prefill_tokens, plan.vocab);
  int64_t token = 0;
  repeat(plan.warmup, plan.warmup_seconds, plan.max_seconds, [&] { prefill(chain, prompt, plan.vocab, token); });
  repeat(plan.repetitions, plan.repetition_seconds, plan.max_seconds, [&] {
    const int64_t taken = prefill(chain, prompt, plan.vocab, token);
    printf("{\"event\":\"repetition\",\"workload\":%zu,\"prefill_ns\":%" PRId64 "}\n", number, taken);
  });
}

// The depth is reached once; each repetition decodes from there and goes back.
inline void measure_decode(Chain& chain, const Plan& plan, const WorkloadPlan& workload, size_t number) {
  int64_t first = 0, last = 0;
  const int64_t fill = prefill(chain, synthetic_prompt(workload.prefill, plan.vocab), plan.vocab, first);
  printf("{\"event\":\"filled\",\"workload\":%zu,\"ns\":%" PRId64 "}\n", number, fill);
  chain.mark();
  repeat(plan.warmup, plan.warmup_seconds, plan.max_seconds, [&] {
    last = first;
    decode(chain, last, workload.decode, plan.vocab);
    chain.rewind();
  });
  repeat(plan.repetitions, plan.repetition_seconds, plan.max_seconds, [&] {
    last = first;
    const auto times = decode(chain, last, workload.decode, plan.vocab);
    chain.rewind();
    printf("{\"event\":\"repetition\",\"workload\":%zu,\"decode_ns\":[%s],\"token\":%" PRId64 "}\n", number,
           joined(times).c_str(), last);
  });
}

// A prompt whose first tokens lie in a snapshot, in turn without it and with it; restoring is part of the second time.
inline void measure_prefix(Chain& chain, const Plan& plan, const WorkloadPlan& workload, size_t number) {
  const auto prompt = synthetic_prompt(workload.prefill, plan.vocab);
  const size_t count = static_cast<size_t>(workload.decode);
  if (count < 1 || count >= prompt.size()) throw std::runtime_error("a prefix is shorter than its prompt");
  const std::vector<int64_t> prefix(prompt.begin(), prompt.begin() + count), rest(prompt.begin() + count, prompt.end());
  Prefixes directory(plan);
  const std::string path = directory.path(".measured");
  chain.clear();
  const float* logits = chain.feed(prefix);
  int64_t start = now_ns();
  const int64_t bytes = save_snapshot(path, plan, chain, prefix, logits);
  printf("{\"event\":\"saved\",\"workload\":%zu,\"bytes\":%" PRId64 ",\"ns\":%" PRId64 "}\n", number, bytes,
         now_ns() - start);
  int64_t cold = 0, restored = 0, warm = 0, token = 0;
  const auto both = [&] {
    cold = prefill(chain, prompt, plan.vocab, token);
    chain.clear();
    start = now_ns();
    restore_snapshot(path, plan, chain, prefix.data(), count);
    restored = now_ns() - start;
    token = best_two(chain.feed(rest), plan.vocab).token;
    warm = now_ns() - start;
  };
  repeat(plan.warmup, plan.warmup_seconds, plan.max_seconds, both);
  repeat(plan.repetitions, plan.repetition_seconds, plan.max_seconds, [&] {
    both();
    printf("{\"event\":\"repetition\",\"workload\":%zu,\"prefill_ns\":%" PRId64 ",\"restored_ns\":%" PRId64
           ",\"restore_ns\":%" PRId64 "}\n",
           number, cold, warm, restored);
  });
  unlink(path.c_str());
}

inline void measure(Chain& chain, const Plan& plan) {
  measure_turns(chain, plan);
  for (size_t i = 0; i < plan.further.size(); ++i) {
    const WorkloadPlan& workload = plan.further[i];
    if (workload.kind == "decode") measure_decode(chain, plan, workload, i + 1);
    else if (workload.kind == "prefix") measure_prefix(chain, plan, workload, i + 1);
    else measure_prefill(chain, plan, workload.prefill, i + 1);
  }
}

// The main workload with a clock around every stage; what the clocks cost makes it unfit for any other figure.
inline void measure_stages(Chain& chain, const Plan& plan) {
  const auto prompt = synthetic_prompt(plan.prefill, plan.vocab);
  std::vector<std::vector<int64_t>> prefills(plan.stages.size()), decodes(plan.stages.size());
  const auto note = [&](std::vector<std::vector<int64_t>>& times, bool counts) {
    for (size_t i = 0; counts && i < times.size(); ++i) times[i].push_back(chain.stage_ns()[i]);
  };
  chain.time_stages();
  for (int run = -plan.warmup; run < plan.repetitions; ++run) {
    int64_t token = 0;
    prefill(chain, prompt, plan.vocab, token);
    note(prefills, run >= 0);
    for (int i = 0; i < plan.decode; ++i) {
      token = best_two(chain.feed({token}), plan.vocab).token;
      note(decodes, run >= 0);
    }
  }
  for (size_t i = 0; i < plan.stages.size(); ++i) {
    printf("{\"event\":\"stage\",\"index\":%zu,\"prefill_ns\":[%s],\"decode_ns\":[%s]}\n", i,
           joined(prefills[i]).c_str(), joined(decodes[i]).c_str());
  }
}

}  // namespace fulcrum
