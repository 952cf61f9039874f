// fulcrum-runner PLAN: loads a Program, runs it as the plan says, answers in JSON lines on standard output.
//
// Timed with CLOCK_MONOTONIC, inside the process; peak memory is the kernel's VmHWM.

#include <dlfcn.h>
#include <time.h>

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <exception>
#include <new>

#include <executorch/extension/threadpool/threadpool.h>
#include <executorch/runtime/platform/runtime.h>

#include "chain.h"

namespace fulcrum {

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<int64_t>(t.tv_sec) * 1000000000 + t.tv_nsec;
}

// The high-water mark of resident memory, in bytes.
int64_t peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stoll(line.substr(6)) * 1024;
  }
  throw std::runtime_error("/proc/self/status has no VmHWM");
}

// Starting up touches more memory than stays: the mark begins anew before the Program is loaded.
void reset_peak() { std::ofstream("/proc/self/clear_refs") << 5; }

// The same pseudo-random prompt in every run (Knuth's MMIX multiplier): no file to push, no token out of range.
std::vector<int64_t> synthetic_prompt(int length, int vocab) {
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

Best best_two(const float* logits, int vocab) {
  Best best{0, 1, logits[0], logits[1]};
  if (logits[1] > logits[0]) best = {1, 0, logits[1], logits[0]};
  for (int i = 2; i < vocab; ++i) {
    if (logits[i] > best.logit) best = {i, best.token, logits[i], best.logit};
    else if (logits[i] > best.runner_up_logit) best.runner_up = i, best.runner_up_logit = logits[i];
  }
  return best;
}

void measure(Chain& chain, const Plan& plan) {
  const auto prompt = synthetic_prompt(plan.prefill, plan.vocab);
  for (int repetition = -plan.warmup; repetition < plan.repetitions; ++repetition) {
    chain.clear();
    int64_t start = now_ns();
    int64_t token = best_two(chain.feed(prompt), plan.vocab).token;
    const int64_t prefill = now_ns() - start;
    std::string decode;
    for (int i = 0; i < plan.decode; ++i) {
      start = now_ns();
      token = best_two(chain.feed({token}), plan.vocab).token;
      decode += (i ? "," : "") + std::to_string(now_ns() - start);
    }
    if (repetition < 0) continue;
    printf("{\"event\":\"repetition\",\"prefill_ns\":%" PRId64 ",\"decode_ns\":[%s]}\n", prefill, decode.c_str());
  }
}

void generate(Chain& chain, const Plan& plan) {
  if (plan.prompt.empty()) throw std::runtime_error("the plan has no prompt");
  int64_t start = now_ns();
  Best best = best_two(chain.feed(plan.prompt), plan.vocab);
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

void run(const char* path) {
  const Plan plan = read_plan(path);
  executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(plan.threads);
  reset_peak();
  const int64_t baseline = peak_bytes(), start = now_ns();
  Chain chain(plan);
  printf("{\"event\":\"loaded\",\"load_ns\":%" PRId64 ",\"baseline_bytes\":%" PRId64 "}\n", now_ns() - start, baseline);
  if (plan.mode == "measure") measure(chain, plan);
  else if (plan.mode == "generate") generate(chain, plan);
  else if (plan.mode == "golden") golden(chain, plan);
  else throw std::runtime_error("the plan has an unknown mode: " + plan.mode);
  printf("{\"event\":\"done\",\"peak_bytes\":%" PRId64 "}\n", peak_bytes());
}

int fail(const char* slug, const char* message) {
  std::string safe;
  for (const char* c = message; *c; ++c) {
    if (*c == '"' || *c == '\\') safe += '\\';
    safe += static_cast<unsigned char>(*c) < 0x20 ? ' ' : *c;
  }
  printf("{\"event\":\"error\",\"slug\":\"%s\",\"message\":\"%s\"}\n", slug, safe.c_str());
  fflush(stdout);
  return 1;
}

}  // namespace fulcrum

int main(int argc, char** argv) {
  if (argc != 2) return fulcrum::fail("usage", "usage: fulcrum-runner PLAN");
  try {
#ifdef FULCRUM_KERNEL_LIBRARIES
    // On a host the operators outside the delegate come in libraries of ExecuTorch's wheel that register on load.
    for (const char* library : {FULCRUM_KERNEL_LIBRARIES}) {
      if (!dlopen(library, RTLD_NOW | RTLD_GLOBAL)) throw std::runtime_error(dlerror());
    }
#endif
    executorch::runtime::runtime_init();
    fulcrum::run(argv[1]);
  } catch (const fulcrum::Refused& error) {
    return fulcrum::fail(error.slug, error.what());
  } catch (const std::bad_alloc&) {
    return fulcrum::fail("out-of-memory", "no memory for the Program or its state");
  } catch (const std::exception& error) {
    return fulcrum::fail("runner-failed", error.what());
  }
  fflush(stdout);
  // The wheel's libraries tear down in an order of their own; everything was said, so leave without them.
  _exit(0);
}
