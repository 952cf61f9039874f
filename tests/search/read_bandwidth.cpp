// MEBIBYTES THREADS SECONDS: reads a block of memory from end to end, again and again; prints the best bytes per second.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

static uint64_t read_all(const uint64_t* from, size_t count) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i < count; i += 8) {
    for (size_t lane = 0; lane < 8; ++lane) sums[lane] += from[i + lane];
  }
  uint64_t sum = 0;
  for (uint64_t one : sums) sum += one;
  return sum;
}

int main(int argc, char** argv) {
  if (argc != 4) return 1;
  const size_t words = strtoul(argv[1], nullptr, 10) * 131072, threads = strtoul(argv[2], nullptr, 10);
  const double seconds = strtod(argv[3], nullptr);
  std::unique_ptr<uint64_t[]> block(new uint64_t[words]);
  for (size_t i = 0; i < words; ++i) block[i] = i;
  const auto now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); };
  std::vector<uint64_t> sums(threads);
  double best = 0;
  for (const double end = now() + seconds; now() < end;) {
    const double start = now();
    std::vector<std::thread> team;
    for (size_t t = 0; t < threads; ++t) {
      const size_t part = words / threads / 8 * 8;
      team.emplace_back([&, t, part] { sums[t] += read_all(&block[t * part], part); });
    }
    for (auto& one : team) one.join();
    const double rate = static_cast<double>(words * 8) / (now() - start);
    if (rate > best) best = rate;
  }
  uint64_t sum = 0;
  for (uint64_t one : sums) sum += one;
  printf("%.0f\n%lu\n", best, static_cast<unsigned long>(sum));  // the sum, lest the reading be optimised away
  return 0;
}
