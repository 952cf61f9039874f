// What the kernel says of this process's memory, and of the files that it is about to load.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "plan.h"

namespace fulcrum {

// A field of /proc/self/status in bytes; -1 when it is not there.
inline int64_t status_bytes(const char* field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(field, 0) == 0) return std::stoll(line.substr(std::string(field).size())) * 1024;
  }
  return -1;
}

// The high-water mark of resident memory, in bytes.
inline int64_t peak_bytes() {
  const int64_t peak = status_bytes("VmHWM:");
  if (peak < 0) throw std::runtime_error("/proc/self/status has no VmHWM");
  return peak;
}

// Starting up touches more memory than stays: the mark begins anew before the Program is loaded.
inline void reset_peak() { std::ofstream("/proc/self/clear_refs") << 5; }

inline std::string json_text(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    if (c == '"' || c == '\\') safe += '\\';
    if (c == '\n') safe += "\\n";
    else safe += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return safe;
}

// The kernel's own words; the agent reads them. smaps_rollup walks all pages, which takes milliseconds.
inline void print_memory(const char* when) {
  std::stringstream status, rollup;
  status << std::ifstream("/proc/self/status").rdbuf();
  rollup << std::ifstream("/proc/self/smaps_rollup").rdbuf();
  printf("{\"event\":\"memory\",\"when\":\"%s\",\"status\":\"%s\",\"smaps_rollup\":\"%s\"}\n", when,
         json_text(status.str()).c_str(), json_text(rollup.str()).c_str());
}

// Reads RSS + swap every few milliseconds: VmHWM does not count pages that were swapped out meanwhile.
class Sampler {
 public:
  explicit Sampler(int milliseconds) {
    if (milliseconds > 0) thread_ = std::thread([this, milliseconds] { watch(milliseconds); });
  }
  ~Sampler() { stop(); }
  void stop() {
    stopped_ = true;
    if (thread_.joinable()) thread_.join();
  }
  int64_t peak() const { return peak_; }
  int64_t count() const { return count_; }

 private:
  void watch(int milliseconds) {
    while (!stopped_) {
      const int64_t now = status_bytes("VmRSS:") + std::max<int64_t>(0, status_bytes("VmSwap:"));
      if (now > peak_) peak_ = now;
      ++count_;
      std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    }
  }
  std::atomic<bool> stopped_{false};
  std::atomic<int64_t> peak_{0}, count_{0};
  std::thread thread_;
};

// Asks the kernel to drop the Program's files from its page cache, which needs no root for clean pages; the share of
// their pages that is still there afterwards, by mincore.
inline double evict(const Plan& plan) {
  std::set<std::string> paths;
  for (const auto& stage : plan.stages) paths.insert(stage.path);
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  size_t pages = 0, resident = 0;
  for (const auto& path : paths) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) throw std::runtime_error("cannot open " + path);
    fsync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    const size_t size = static_cast<size_t>(info.st_size);
    void* base = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (base == MAP_FAILED) throw std::runtime_error("cannot map " + path);
    std::vector<unsigned char> there((size + page - 1) / page, 1);
    if (mincore(base, size, there.data()) != 0) there.assign(there.size(), 1);
    munmap(base, size);
    pages += there.size();
    for (const unsigned char flags : there) resident += flags & 1;
  }
  return pages ? static_cast<double>(resident) / static_cast<double>(pages) : 0.0;
}

}  // namespace fulcrum
