// fulcrum-runner PLAN: loads a Program, runs it as the plan says, answers in JSON lines on standard output.
//
// Timed with CLOCK_MONOTONIC, inside the process; peak memory is the kernel's VmHWM.

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <exception>
#include <new>

#include <executorch/extension/threadpool/threadpool.h>
#include <executorch/runtime/platform/runtime.h>

#include "chain.h"
#include "measure.h"
#include "memory.h"
#include "operators.h"
#ifdef FULCRUM_HOST
#include "host/embedding.h"
#endif

namespace fulcrum {

// The prompt through the longest snapshot that it begins with, and a new one where the plan asks for more than was there.
Best prefill_prompt(Chain& chain, const Plan& plan) {
  const size_t wanted = static_cast<size_t>(plan.prefix);
  if (wanted == 0) return best_two(chain.feed(plan.prompt), plan.vocab);
  if (wanted > plan.prompt.size()) throw std::runtime_error("the plan's prefix is longer than its prompt");
  Prefixes directory(plan);
  const int64_t start = now_ns();
  Found found = directory.restore(chain, plan.prompt, wanted);
  const int64_t restored = now_ns() - start;
  std::vector<float>& logits = found.logits;
  const auto feed = [&](size_t from, size_t to) {
    const float* out = chain.feed({plan.prompt.begin() + from, plan.prompt.begin() + to});
    logits.assign(out, out + plan.vocab);
  };
  std::string note;
  int64_t kept = 0;
  if (found.count < wanted) {
    feed(found.count, wanted);
    try {
      kept = directory.keep(chain, {plan.prompt.begin(), plan.prompt.begin() + wanted}, logits.data());
    } catch (const SnapshotRefused& error) {
      note = std::string("not kept: ") + error.what();
    }
  }
  for (const auto& refused : found.refused) note += (note.empty() ? "" : "; ") + refused;
  printf("{\"event\":\"prefix\",\"restored\":%zu,\"restore_ns\":%" PRId64 ",\"kept_bytes\":%" PRId64
         ",\"note\":\"%s\"}\n",
         found.count, restored, kept, json_text(note).c_str());
  if (wanted < plan.prompt.size()) feed(wanted, plan.prompt.size());
  return best_two(logits.data(), plan.vocab);
}

void generate(Chain& chain, const Plan& plan) {
  if (plan.prompt.empty()) throw std::runtime_error("the plan has no prompt");
  int64_t start = now_ns();
  Best best = prefill_prompt(chain, plan);
  int64_t taken = now_ns() - start;
  printf("{\"event\":\"prefilled\",\"ns\":%" PRId64 "}\n", taken);
  for (int i = 0; i < plan.decode; ++i) {
    printf("{\"event\":\"token\",\"token\":%" PRId64 ",\"logit\":%.9g,\"runner_up\":%" PRId64
           ",\"runner_up_logit\":%.9g,\"ns\":%" PRId64 "}\n",
           best.token, best.logit, best.runner_up, best.runner_up_logit, taken);
    fflush(stdout);
    if (i + 1 == plan.decode) break;
    start = now_ns();
    best = best_two(chain.feed({best.token}), plan.vocab);
    taken = now_ns() - start;
  }
}

// Known tokens, the first plan.prefill at once and the others one by one; every logit is told (JSON has no NaN).
void golden(Chain& chain, const Plan& plan) {
  const size_t count = plan.prompt.size(), first = static_cast<size_t>(plan.prefill);
  if (first < 1 || first > count) throw std::runtime_error("the plan prefills more tokens than its prompt has");
  for (int repetition = 0; repetition < plan.repetitions; ++repetition) {
    chain.clear();
    for (size_t fed = 0, next = first; fed < count; fed = next, next = fed + 1) {
      const std::vector<int64_t> tokens(plan.prompt.begin() + fed, plan.prompt.begin() + next);
      const int64_t start = now_ns();
      const float* logits = chain.feed(tokens);
      printf("{\"event\":\"logits\",\"ns\":%" PRId64 ",\"values\":[", now_ns() - start);
      for (int i = 0; i < plan.vocab; ++i) {
        if (i) putchar(',');
        if (std::isfinite(logits[i])) printf("%.9g", logits[i]);
        else printf("null");
      }
      puts("]}");
    }
  }
}

// What the Program's files cost when they must be read from storage: nothing but the load is done.
void load_only(const Plan& plan) {
  const double resident = evict(plan);
  const int64_t start = now_ns();
  Chain chain(plan);
  const int64_t taken = now_ns() - start;
  printf("{\"event\":\"evicted\",\"resident\":%.6f}\n", resident);
  printf("{\"event\":\"loaded\",\"load_ns\":%" PRId64 ",\"baseline_bytes\":0}\n", taken);
}

void work(const Plan& plan) {
  Sampler sampler(plan.memory_ms);
  reset_peak();
  const int64_t baseline = peak_bytes();
  if (plan.memory_ms) print_memory("empty");
  const int64_t start = now_ns();
  Chain chain(plan);
  printf("{\"event\":\"loaded\",\"load_ns\":%" PRId64 ",\"baseline_bytes\":%" PRId64 "}\n", now_ns() - start, baseline);
  if (plan.memory_ms) print_memory("loaded");
  if (plan.mode == "measure") measure(chain, plan);
  else if (plan.mode == "stages") measure_stages(chain, plan);
  else if (plan.mode == "generate") generate(chain, plan);
  else if (plan.mode == "golden") golden(chain, plan);
  else throw std::runtime_error("the plan has an unknown mode: " + plan.mode);
  if (plan.memory_ms) {
    print_memory("steady");
    sampler.stop();
    printf("{\"event\":\"sampled\",\"peak_bytes\":%" PRId64 ",\"samples\":%" PRId64 "}\n", sampler.peak(), sampler.count());
  }
}

void run(const char* path) {
  const Plan plan = read_plan(path);
  executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(plan.threads);
  if (plan.mode == "load") load_only(plan);
  else work(plan);
  printf("{\"event\":\"done\",\"peak_bytes\":%" PRId64 ",\"cpu_ns\":%" PRId64 "}\n", peak_bytes(), cpu_ns());
}

int fail(const char* slug, const char* message) {
  printf("{\"event\":\"error\",\"slug\":\"%s\",\"message\":\"%s\"}\n", slug, json_text(message).c_str());
  fflush(stdout);
  return 1;
}

}  // namespace fulcrum

int main(int argc, char** argv) {
  if (argc != 2) return fulcrum::fail("usage", "usage: fulcrum-runner PLAN");
  try {
    executorch::runtime::runtime_init();
    fulcrum::check(fulcrum::register_operators(), "registering the runner's operators");
#ifdef FULCRUM_HOST
    fulcrum::check(fulcrum::register_embeddings(), "registering the host's operators");
#endif
    fulcrum::run(argv[1]);
  } catch (const fulcrum::Refused& error) {
    return fulcrum::fail(error.slug, error.what());
  } catch (const fulcrum::SnapshotRefused& error) {
    return fulcrum::fail("snapshot-refused", error.what());
  } catch (const std::bad_alloc&) {
    return fulcrum::fail("out-of-memory", "no memory for the Program or its state");
  } catch (const std::exception& error) {
    return fulcrum::fail("runner-failed", error.what());
  }
  fflush(stdout);
  // The wheel's libraries tear down in an order of their own; everything was said, so leave without them.
  _exit(0);
}
