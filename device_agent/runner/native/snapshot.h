// Snapshots of a prefix: the state after its tokens, in a file. Restoring one is reading it; nothing is computed.
//
//   Header, tokens int64 [count], per state of each stage its bytes (in place: the rows of `count` positions),
//   logits float32 [vocab] after the last token
//
// A file is written under a name that nobody looks for, synced, and renamed. It is bound to the Program by its hash,
// which covers the weights and the layout of the state, and to its tokens, which it holds.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "chain.h"

namespace fulcrum {

// Why a snapshot is not taken.
struct SnapshotRefused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Four interleaved lanes of xor, multiply and rotate; a step is one-to-one in its word, so a change of one word shows.
class Checksum {
 public:
  void add(const void* data, size_t size) {
    const uint8_t* bytes = static_cast<const uint8_t*>(data);
    for (; size >= 32; bytes += 32, size -= 32) {
      uint64_t words[4];
      memcpy(words, bytes, 32);
      for (int i = 0; i < 4; ++i) step(lanes_[i], words[i]);
    }
    for (; size > 0; ++bytes, --size) step(lanes_[0], *bytes);
  }
  uint64_t value() const {
    uint64_t all = 0;
    for (const uint64_t lane : lanes_) step(all, lane);
    return all;
  }

 private:
  static void step(uint64_t& lane, uint64_t word) {
    lane = (lane ^ word) * 0x9e3779b97f4a7c15ULL;
    lane = lane << 31 | lane >> 33;
  }
  uint64_t lanes_[4] = {1, 2, 3, 4};
};

struct SnapshotHeader {
  char magic[16];
  char program[64];
  uint64_t size, checksum;  // of the whole file; of all that follows the header, and the fields below
  uint64_t count, vocab;
};
constexpr char kMagic[16] = {'f', 'u', 'l', 'c', 'r', 'u', 'm', ' ', 'p', 'r', 'e', 'f', 'i', 'x', ' ', '1'};

inline uint64_t hash_of(const int64_t* tokens, size_t count) {
  Checksum hash;
  hash.add(tokens, count * sizeof *tokens);
  return hash.value();
}

inline std::string snapshot_name(const std::string& program, const int64_t* tokens, size_t count) {
  char text[64];
  snprintf(text, sizeof text, "-%zu-%016llx", count, static_cast<unsigned long long>(hash_of(tokens, count)));
  return program.substr(0, 16) + text;
}

// The memory of a snapshot's parts, in the order of the file.
inline std::vector<std::pair<void*, size_t>> parts_of(Chain& chain, uint64_t count) {
  std::vector<std::pair<void*, size_t>> parts;
  for (const auto& stage : chain.stages()) {
    for (size_t i = 0; i < stage->states().size(); ++i) {
      const StatePlan& state = stage->states()[i];
      parts.emplace_back(stage->state(i), state.in_place ? count * state.row_bytes() : state.bytes());
    }
  }
  return parts;
}

inline uint64_t checksum_of(const SnapshotHeader& header, const std::vector<std::pair<const void*, size_t>>& parts) {
  Checksum sum;
  sum.add(header.program, sizeof header.program);
  sum.add(&header.count, sizeof header.count);
  sum.add(&header.vocab, sizeof header.vocab);
  for (const auto& [data, size] : parts) sum.add(data, size);
  return sum.value();
}

inline void write_all(int fd, const void* data, size_t size, const std::string& path) {
  const char* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = write(fd, bytes, std::min<size_t>(size, 1 << 30));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) throw SnapshotRefused("cannot write " + path + ": " + strerror(errno));
    bytes += written, size -= static_cast<size_t>(written);
  }
}

// Writes the chain's state after `tokens`; the size of the file. What cannot be written whole leaves nothing.
inline int64_t save_snapshot(const std::string& path, const Plan& plan, Chain& chain, const std::vector<int64_t>& tokens,
                             const float* logits) {
  SnapshotHeader header{};
  memcpy(header.magic, kMagic, sizeof kMagic);
  memcpy(header.program, plan.program.data(), std::min(plan.program.size(), sizeof header.program));
  header.count = tokens.size(), header.vocab = static_cast<uint64_t>(plan.vocab);
  std::vector<std::pair<const void*, size_t>> parts{{tokens.data(), tokens.size() * sizeof tokens[0]}};
  for (const auto& [data, size] : parts_of(chain, header.count)) parts.emplace_back(data, size);
  parts.emplace_back(logits, static_cast<size_t>(plan.vocab) * sizeof *logits);
  header.size = sizeof header;
  for (const auto& part : parts) header.size += part.second;
  header.checksum = checksum_of(header, parts);
  const size_t slash = path.rfind('/') + 1;
  const std::string partial = path.substr(0, slash) + ".partial-" + path.substr(slash);
  const int fd = open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) throw SnapshotRefused("cannot write " + partial + ": " + strerror(errno));
  try {
    write_all(fd, &header, sizeof header, partial);
    for (const auto& [data, size] : parts) write_all(fd, data, size, partial);
    if (fsync(fd) != 0 || rename(partial.c_str(), path.c_str()) != 0) {
      throw SnapshotRefused("cannot keep " + path + ": " + strerror(errno));
    }
  } catch (...) {
    close(fd);
    unlink(partial.c_str());
    throw;
  }
  close(fd);
  return static_cast<int64_t>(header.size);
}

// A file that is mapped for as long as it lives.
class MappedSnapshot {
 public:
  explicit MappedSnapshot(const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
      const std::string why = strerror(errno);
      if (fd >= 0) close(fd);
      throw SnapshotRefused("cannot be read: " + why);
    }
    size_ = static_cast<size_t>(info.st_size);
    if (size_ > 0) data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    close(fd);
    if (data_ == MAP_FAILED) throw SnapshotRefused("cannot be mapped");
  }
  ~MappedSnapshot() {
    if (data_ && data_ != MAP_FAILED) munmap(data_, size_);
  }
  MappedSnapshot(const MappedSnapshot&) = delete;
  MappedSnapshot& operator=(const MappedSnapshot&) = delete;
  const uint8_t* data() const { return static_cast<const uint8_t*>(data_); }
  size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// Puts the chain where it was after `tokens`; the logits [vocab] of the last one. The chain stays as it is where the
// file is refused: cut short, altered, or of another Program or other tokens.
inline std::vector<float> restore_snapshot(const std::string& path, const Plan& plan, Chain& chain,
                                           const int64_t* tokens, size_t count) {
  const MappedSnapshot file(path);
  SnapshotHeader header;
  if (file.size() < sizeof header) throw SnapshotRefused("cut short: " + std::to_string(file.size()) + " bytes");
  memcpy(&header, file.data(), sizeof header);
  if (memcmp(header.magic, kMagic, sizeof kMagic) != 0) throw SnapshotRefused("no snapshot of this format");
  if (plan.program.compare(0, 64, header.program, 64) != 0) throw SnapshotRefused("made by another Program");
  if (header.size != file.size()) {
    throw SnapshotRefused("cut short: " + std::to_string(file.size()) + " of " + std::to_string(header.size) + " bytes");
  }
  const auto parts = parts_of(chain, count);
  size_t expected = sizeof header + count * sizeof *tokens + static_cast<size_t>(plan.vocab) * sizeof(float);
  for (const auto& part : parts) expected += part.second;
  if (header.count != count || header.vocab != static_cast<uint64_t>(plan.vocab) || expected != header.size) {
    throw SnapshotRefused("of another length or layout");
  }
  const uint8_t* body = file.data() + sizeof header;
  std::vector<std::pair<const void*, size_t>> found{{body, count * sizeof *tokens}};
  for (const auto& part : parts) found.emplace_back(nullptr, part.second);
  found.emplace_back(nullptr, static_cast<size_t>(plan.vocab) * sizeof(float));
  for (size_t i = 0, at = 0; i < found.size(); at += found[i++].second) found[i].first = body + at;
  if (checksum_of(header, found) != header.checksum) throw SnapshotRefused("altered: its checksum does not agree");
  if (memcmp(body, tokens, count * sizeof *tokens) != 0) throw SnapshotRefused("of other tokens");
  for (size_t i = 0; i < parts.size(); ++i) memcpy(parts[i].first, found[i + 1].first, parts[i].second);
  chain.seek(static_cast<int64_t>(count));
  std::vector<float> logits(static_cast<size_t>(plan.vocab));
  memcpy(logits.data(), found.back().first, found.back().second);
  return logits;
}

}  // namespace fulcrum
