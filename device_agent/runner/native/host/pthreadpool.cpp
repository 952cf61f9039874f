// The thread pool that XNNPACK calls, by the interface of pthreadpool.h: on a phone it is pthreadpool itself, in the
// wheel it would be torch's, whose libraries take 100 MB and a quarter of a second.
//
// Workers spin for a while for the next command, as calls follow within microseconds, and then sleep. A range is a
// count of tiles; each thread takes the next tiles until none is left. A worker joins a command while it is open; the
// caller closes it when no tile is left and waits for those that joined, so that one which other processes keep from
// its core delays nobody.

#include <pthreadpool.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

inline void pause_a_little() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Denormals are flushed to zero for as long as it lives, where the caller asks for it.
class Flush {
 public:
  explicit Flush(uint32_t flags) : on_(flags & PTHREADPOOL_FLAG_DISABLE_DENORMALS) {
#if defined(__x86_64__)
    if (!on_) return;
    saved_ = _mm_getcsr();
    _mm_setcsr(saved_ | 0x8040);
#endif
  }
  ~Flush() {
#if defined(__x86_64__)
    if (on_) _mm_setcsr(saved_);
#endif
  }

 private:
  bool on_;
  unsigned saved_ = 0;
};

using Task = void (*)(void* context, size_t thread, size_t index);
constexpr int kSpins = 20000;

}  // namespace

struct pthreadpool {
  explicit pthreadpool(size_t threads) {
    for (size_t i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  }
  ~pthreadpool() {
    stopped_.store(true);
    wake();
    for (auto& worker : workers_) worker.join();
  }
  size_t threads() const { return workers_.size() + 1; }

  void run(Task task, void* context, size_t count, uint32_t flags) {
    if (workers_.empty() || count <= 1) {
      const Flush flush(flags);
      for (size_t i = 0; i < count; ++i) task(context, 0, i);
      return;
    }
    const std::lock_guard<std::mutex> one_at_a_time(caller_);
    task_ = task, context_ = context, count_ = count, flags_ = flags;
    next_.store(0, std::memory_order_relaxed);
    gate_.store(((gate_.load() >> 32) + 1) << 32 | kOpen);
    if (sleepers_.load() > 0) wake();
    share(0);
    gate_.fetch_and(~kOpen);
    for (int spins = 0; gate_.load(std::memory_order_acquire) & kJoined; ++spins) {
      if (spins < kSpins) pause_a_little();
      else std::this_thread::yield();
    }
  }

 private:
  // The gate: the command's number in the upper half, whether it is open, how many workers are in it.
  static constexpr uint64_t kOpen = 1u << 31, kJoined = kOpen - 1;

  void wake() {
    { const std::lock_guard<std::mutex> lock(mutex_); }  // whoever counts as a sleeper waits now, or will look again
    changed_.notify_all();
  }
  void share(size_t thread) {
    const Flush flush(flags_);
    for (size_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) task_(context_, thread, i);
  }
  bool is_new(uint64_t gate, uint64_t seen) const { return stopped_.load() || ((gate & kOpen) && gate >> 32 != seen); }
  void work(size_t thread) {
    for (uint64_t seen = 0;;) {
      for (int i = 0; i < kSpins && !is_new(gate_.load(), seen); ++i) pause_a_little();
      if (!is_new(gate_.load(), seen)) {
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1);
        changed_.wait(lock, [&] { return is_new(gate_.load(), seen); });
        sleepers_.fetch_sub(1);
      }
      if (stopped_.load()) return;
      uint64_t gate = gate_.load();
      if (!is_new(gate, seen) || !gate_.compare_exchange_strong(gate, gate + 1)) continue;
      seen = gate >> 32;
      share(thread);
      gate_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> workers_;
  std::mutex caller_, mutex_;
  std::condition_variable changed_;
  std::atomic<uint64_t> gate_{0};
  std::atomic<size_t> next_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stopped_{false};
  Task task_ = nullptr;
  void* context_ = nullptr;
  size_t count_ = 0;
  uint32_t flags_ = 0;
};

namespace {

// f(thread, index) for every index.
template <typename Function>
void each(pthreadpool_t pool, size_t count, uint32_t flags, Function f) {
  const Task task = [](void* context, size_t thread, size_t index) { (*static_cast<Function*>(context))(thread, index); };
  if (pool) return pool->run(task, &f, count, flags);
  const Flush flush(flags);
  for (size_t i = 0; i < count; ++i) f(size_t{0}, i);
}

size_t tiles(size_t range, size_t tile) { return (range + tile - 1) / tile; }
size_t threads_of(pthreadpool_t pool) { return pool ? pool->threads() : 1; }

// A dynamic tile is a multiple of the tile asked for: all at once on one thread, else several pieces for each thread.
size_t grown(pthreadpool_t pool, size_t range, size_t tile, size_t times) {
  const size_t threads = threads_of(pool);
  if (threads == 1) return std::max<size_t>(range, 1);
  const size_t pieces = tiles(threads * 4, std::max<size_t>(times, 1));
  return std::max<size_t>(1, tiles(range, tile) / pieces) * tile;
}

struct Span {
  size_t start, count;
};
Span span(size_t index, size_t range, size_t tile) { return {index * tile, std::min(tile, range - index * tile)}; }

}  // namespace

extern "C" {

pthreadpool_t pthreadpool_create(size_t threads) {
  return new pthreadpool(threads ? threads : std::max(1u, std::thread::hardware_concurrency()));
}
void pthreadpool_destroy(pthreadpool_t pool) { delete pool; }
size_t pthreadpool_get_threads_count(pthreadpool_t pool) { return threads_of(pool); }
void pthreadpool_release_executor_threads(pthreadpool*) {}  // this pool borrows none

void pthreadpool_parallelize_1d(pthreadpool_t p, pthreadpool_task_1d_t f, void* c, size_t range, uint32_t flags) {
  each(p, range, flags, [=](size_t, size_t i) { f(c, i); });
}
void pthreadpool_parallelize_1d_with_thread(pthreadpool_t p, pthreadpool_task_1d_with_thread_t f, void* c, size_t range,
                                            uint32_t flags) {
  each(p, range, flags, [=](size_t thread, size_t i) { f(c, thread, i); });
}
void pthreadpool_parallelize_1d_tile_1d(pthreadpool_t p, pthreadpool_task_1d_tile_1d_t f, void* c, size_t range,
                                        size_t tile, uint32_t flags) {
  each(p, tiles(range, tile), flags, [=](size_t, size_t i) {
    const Span s = span(i, range, tile);
    f(c, s.start, s.count);
  });
}
void pthreadpool_parallelize_1d_tile_1d_dynamic(pthreadpool_t p, pthreadpool_task_1d_tile_1d_dynamic_t f, void* c,
                                                size_t range, size_t tile, uint32_t flags) {
  pthreadpool_parallelize_1d_tile_1d(p, f, c, range, grown(p, range, tile, 1), flags);
}
void pthreadpool_parallelize_1d_tile_1d_dynamic_with_thread(pthreadpool_t p,
                                                            pthreadpool_task_1d_tile_1d_dynamic_with_id_t f, void* c,
                                                            size_t range, size_t tile, uint32_t flags) {
  const size_t step = grown(p, range, tile, 1);
  each(p, tiles(range, step), flags, [=](size_t thread, size_t i) {
    const Span s = span(i, range, step);
    f(c, static_cast<uint32_t>(thread), s.start, s.count);
  });
}
void pthreadpool_parallelize_2d(pthreadpool_t p, pthreadpool_task_2d_t f, void* c, size_t range_i, size_t range_j,
                                uint32_t flags) {
  each(p, range_i * range_j, flags, [=](size_t, size_t n) { f(c, n / range_j, n % range_j); });
}
void pthreadpool_parallelize_2d_with_thread(pthreadpool_t p, pthreadpool_task_2d_with_thread_t f, void* c,
                                            size_t range_i, size_t range_j, uint32_t flags) {
  each(p, range_i * range_j, flags, [=](size_t thread, size_t n) { f(c, thread, n / range_j, n % range_j); });
}
void pthreadpool_parallelize_2d_tile_1d(pthreadpool_t p, pthreadpool_task_2d_tile_1d_t f, void* c, size_t range_i,
                                        size_t range_j, size_t tile_j, uint32_t flags) {
  const size_t n_j = tiles(range_j, tile_j);
  each(p, range_i * n_j, flags, [=](size_t, size_t n) {
    const Span j = span(n % n_j, range_j, tile_j);
    f(c, n / n_j, j.start, j.count);
  });
}
void pthreadpool_parallelize_2d_tile_1d_dynamic(pthreadpool_t p, pthreadpool_task_2d_tile_1d_dynamic_t f, void* c,
                                                size_t range_i, size_t range_j, size_t tile_j, uint32_t flags) {
  pthreadpool_parallelize_2d_tile_1d(p, f, c, range_i, range_j, grown(p, range_j, tile_j, range_i), flags);
}
void pthreadpool_parallelize_2d_tile_1d_dynamic_with_thread(pthreadpool_t p,
                                                            pthreadpool_task_2d_tile_1d_dynamic_with_id_t f, void* c,
                                                            size_t range_i, size_t range_j, size_t tile_j,
                                                            uint32_t flags) {
  const size_t step = grown(p, range_j, tile_j, range_i), n_j = tiles(range_j, step);
  each(p, range_i * n_j, flags, [=](size_t thread, size_t n) {
    const Span j = span(n % n_j, range_j, step);
    f(c, static_cast<uint32_t>(thread), n / n_j, j.start, j.count);
  });
}
void pthreadpool_parallelize_2d_tile_2d(pthreadpool_t p, pthreadpool_task_2d_tile_2d_t f, void* c, size_t range_i,
                                        size_t range_j, size_t tile_i, size_t tile_j, uint32_t flags) {
  const size_t n_j = tiles(range_j, tile_j);
  each(p, tiles(range_i, tile_i) * n_j, flags, [=](size_t, size_t n) {
    const Span i = span(n / n_j, range_i, tile_i), j = span(n % n_j, range_j, tile_j);
    f(c, i.start, j.start, i.count, j.count);
  });
}
void pthreadpool_parallelize_2d_tile_2d_dynamic(pthreadpool_t p, pthreadpool_task_2d_tile_2d_dynamic_t f, void* c,
                                                size_t range_i, size_t range_j, size_t tile_i, size_t tile_j,
                                                uint32_t flags) {
  const size_t rows = threads_of(p) == 1 ? std::max<size_t>(range_i, 1) : tile_i;
  pthreadpool_parallelize_2d_tile_2d(p, f, c, range_i, range_j, rows, grown(p, range_j, tile_j, tiles(range_i, rows)),
                                     flags);
}
void pthreadpool_parallelize_2d_tile_2d_dynamic_with_thread(pthreadpool_t p,
                                                            pthreadpool_task_2d_tile_2d_dynamic_with_id_t f, void* c,
                                                            size_t range_i, size_t range_j, size_t tile_i,
                                                            size_t tile_j, uint32_t flags) {
  const size_t rows = threads_of(p) == 1 ? std::max<size_t>(range_i, 1) : tile_i;
  const size_t step = grown(p, range_j, tile_j, tiles(range_i, rows)), n_j = tiles(range_j, step);
  each(p, tiles(range_i, rows) * n_j, flags, [=](size_t thread, size_t n) {
    const Span i = span(n / n_j, range_i, rows), j = span(n % n_j, range_j, step);
    f(c, static_cast<uint32_t>(thread), i.start, j.start, i.count, j.count);
  });
}
void pthreadpool_parallelize_3d(pthreadpool_t p, pthreadpool_task_3d_t f, void* c, size_t range_i, size_t range_j,
                                size_t range_k, uint32_t flags) {
  each(p, range_i * range_j * range_k, flags, [=](size_t, size_t n) {
    f(c, n / range_k / range_j, n / range_k % range_j, n % range_k);
  });
}
void pthreadpool_parallelize_3d_tile_1d(pthreadpool_t p, pthreadpool_task_3d_tile_1d_t f, void* c, size_t range_i,
                                        size_t range_j, size_t range_k, size_t tile_k, uint32_t flags) {
  const size_t n_k = tiles(range_k, tile_k);
  each(p, range_i * range_j * n_k, flags, [=](size_t, size_t n) {
    const Span k = span(n % n_k, range_k, tile_k);
    f(c, n / n_k / range_j, n / n_k % range_j, k.start, k.count);
  });
}
void pthreadpool_parallelize_3d_tile_1d_with_thread(pthreadpool_t p, pthreadpool_task_3d_tile_1d_with_thread_t f,
                                                    void* c, size_t range_i, size_t range_j, size_t range_k,
                                                    size_t tile_k, uint32_t flags) {
  const size_t n_k = tiles(range_k, tile_k);
  each(p, range_i * range_j * n_k, flags, [=](size_t thread, size_t n) {
    const Span k = span(n % n_k, range_k, tile_k);
    f(c, thread, n / n_k / range_j, n / n_k % range_j, k.start, k.count);
  });
}
void pthreadpool_parallelize_3d_tile_1d_dynamic(pthreadpool_t p, pthreadpool_task_3d_tile_1d_dynamic_t f, void* c,
                                                size_t range_i, size_t range_j, size_t range_k, size_t tile_k,
                                                uint32_t flags) {
  pthreadpool_parallelize_3d_tile_1d(p, f, c, range_i, range_j, range_k, grown(p, range_k, tile_k, range_i * range_j),
                                     flags);
}
void pthreadpool_parallelize_3d_tile_1d_dynamic_with_thread(pthreadpool_t p,
                                                            pthreadpool_task_3d_tile_1d_dynamic_with_id_t f, void* c,
                                                            size_t range_i, size_t range_j, size_t range_k,
                                                            size_t tile_k, uint32_t flags) {
  const size_t step = grown(p, range_k, tile_k, range_i * range_j), n_k = tiles(range_k, step);
  each(p, range_i * range_j * n_k, flags, [=](size_t thread, size_t n) {
    const Span k = span(n % n_k, range_k, step);
    f(c, static_cast<uint32_t>(thread), n / n_k / range_j, n / n_k % range_j, k.start, k.count);
  });
}
void pthreadpool_parallelize_3d_tile_2d(pthreadpool_t p, pthreadpool_task_3d_tile_2d_t f, void* c, size_t range_i,
                                        size_t range_j, size_t range_k, size_t tile_j, size_t tile_k, uint32_t flags) {
  const size_t n_j = tiles(range_j, tile_j), n_k = tiles(range_k, tile_k);
  each(p, range_i * n_j * n_k, flags, [=](size_t, size_t n) {
    const Span j = span(n / n_k % n_j, range_j, tile_j), k = span(n % n_k, range_k, tile_k);
    f(c, n / n_k / n_j, j.start, k.start, j.count, k.count);
  });
}
void pthreadpool_parallelize_3d_tile_2d_dynamic(pthreadpool_t p, pthreadpool_task_3d_tile_2d_dynamic_t f, void* c,
                                                size_t range_i, size_t range_j, size_t range_k, size_t tile_j,
                                                size_t tile_k, uint32_t flags) {
  const size_t rows = threads_of(p) == 1 ? std::max<size_t>(range_j, 1) : tile_j;
  pthreadpool_parallelize_3d_tile_2d(p, f, c, range_i, range_j, range_k, rows,
                                     grown(p, range_k, tile_k, range_i * tiles(range_j, rows)), flags);
}
void pthreadpool_parallelize_3d_tile_2d_dynamic_with_thread(pthreadpool_t p,
                                                            pthreadpool_task_3d_tile_2d_dynamic_with_id_t f, void* c,
                                                            size_t range_i, size_t range_j, size_t range_k,
                                                            size_t tile_j, size_t tile_k, uint32_t flags) {
  const size_t rows = threads_of(p) == 1 ? std::max<size_t>(range_j, 1) : tile_j;
  const size_t step = grown(p, range_k, tile_k, range_i * tiles(range_j, rows));
  const size_t n_j = tiles(range_j, rows), n_k = tiles(range_k, step);
  each(p, range_i * n_j * n_k, flags, [=](size_t thread, size_t n) {
    const Span j = span(n / n_k % n_j, range_j, rows), k = span(n % n_k, range_k, step);
    f(c, static_cast<uint32_t>(thread), n / n_k / n_j, j.start, k.start, j.count, k.count);
  });
}
void pthreadpool_parallelize_4d(pthreadpool_t p, pthreadpool_task_4d_t f, void* c, size_t range_i, size_t range_j,
                                size_t range_k, size_t range_l, uint32_t flags) {
  each(p, range_i * range_j * range_k * range_l, flags, [=](size_t, size_t n) {
    const size_t ijk = n / range_l;
    f(c, ijk / range_k / range_j, ijk / range_k % range_j, ijk % range_k, n % range_l);
  });
}
void pthreadpool_parallelize_4d_tile_2d(pthreadpool_t p, pthreadpool_task_4d_tile_2d_t f, void* c, size_t range_i,
                                        size_t range_j, size_t range_k, size_t range_l, size_t tile_k, size_t tile_l,
                                        uint32_t flags) {
  const size_t n_k = tiles(range_k, tile_k), n_l = tiles(range_l, tile_l);
  each(p, range_i * range_j * n_k * n_l, flags, [=](size_t, size_t n) {
    const size_t ij = n / n_l / n_k;
    const Span k = span(n / n_l % n_k, range_k, tile_k), l = span(n % n_l, range_l, tile_l);
    f(c, ij / range_j, ij % range_j, k.start, l.start, k.count, l.count);
  });
}
void pthreadpool_parallelize_4d_tile_2d_dynamic(pthreadpool_t p, pthreadpool_task_4d_tile_2d_dynamic_t f, void* c,
                                                size_t range_i, size_t range_j, size_t range_k, size_t range_l,
                                                size_t tile_k, size_t tile_l, uint32_t flags) {
  const size_t rows = threads_of(p) == 1 ? std::max<size_t>(range_k, 1) : tile_k;
  const size_t step = grown(p, range_l, tile_l, range_i * range_j * tiles(range_k, rows));
  pthreadpool_parallelize_4d_tile_2d(p, f, c, range_i, range_j, range_k, range_l, rows, step, flags);
}
void pthreadpool_parallelize_5d(pthreadpool_t p, pthreadpool_task_5d_t f, void* c, size_t range_i, size_t range_j,
                                size_t range_k, size_t range_l, size_t range_m, uint32_t flags) {
  each(p, range_i * range_j * range_k * range_l * range_m, flags, [=](size_t, size_t n) {
    const size_t ijkl = n / range_m, ijk = ijkl / range_l;
    f(c, ijk / range_k / range_j, ijk / range_k % range_j, ijk % range_k, ijkl % range_l, n % range_m);
  });
}
void pthreadpool_parallelize_5d_tile_2d(pthreadpool_t p, pthreadpool_task_5d_tile_2d_t f, void* c, size_t range_i,
                                        size_t range_j, size_t range_k, size_t range_l, size_t range_m, size_t tile_l,
                                        size_t tile_m, uint32_t flags) {
  const size_t n_l = tiles(range_l, tile_l), n_m = tiles(range_m, tile_m);
  each(p, range_i * range_j * range_k * n_l * n_m, flags, [=](size_t, size_t n) {
    const size_t ijk = n / n_m / n_l;
    const Span l = span(n / n_m % n_l, range_l, tile_l), m = span(n % n_m, range_m, tile_m);
    f(c, ijk / range_k / range_j, ijk / range_k % range_j, ijk % range_k, l.start, m.start, l.count, m.count);
  });
}
void pthreadpool_parallelize_6d_tile_2d(pthreadpool_t p, pthreadpool_task_6d_tile_2d_t f, void* c, size_t range_i,
                                        size_t range_j, size_t range_k, size_t range_l, size_t range_m, size_t range_n,
                                        size_t tile_m, size_t tile_n, uint32_t flags) {
  const size_t n_m = tiles(range_m, tile_m), n_n = tiles(range_n, tile_n);
  each(p, range_i * range_j * range_k * range_l * n_m * n_n, flags, [=](size_t, size_t n) {
    const size_t ijkl = n / n_n / n_m, ijk = ijkl / range_l;
    const Span m = span(n / n_n % n_m, range_m, tile_m), o = span(n % n_n, range_n, tile_n);
    f(c, ijk / range_k / range_j, ijk / range_k % range_j, ijk % range_k, ijkl % range_l, m.start, o.start, m.count,
      o.count);
  });
}

}  // extern "C"
