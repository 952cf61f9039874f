// The directory of snapshots: the longest that a prompt begins with, and room for a new one (least recently used first).
#pragma once

#include "snapshot.h"

namespace fulcrum {

struct Found {
  size_t count = 0;  // tokens; 0: there is none
  std::vector<float> logits;
  std::vector<std::string> refused;
};

class Prefixes {
 public:
  explicit Prefixes(const Plan& plan) : plan_(plan) {
    if (mkdir(plan.snapshots.c_str(), 0700) != 0 && errno != EEXIST) {
      throw std::runtime_error("cannot make " + plan.snapshots + ": " + strerror(errno));
    }
    for (const Entry& entry : entries()) {
      if (entry.name[0] == '.') unlink(path(entry.name).c_str());  // what a process that was killed did not finish
    }
  }

  std::string path(const std::string& name) const { return plan_.snapshots + "/" + name; }
  std::string path(const int64_t* tokens, size_t count) const {
    return path(snapshot_name(plan_.program, tokens, count));
  }

  // Restores the longest snapshot of at most `most` tokens that the prompt begins with. One that is refused is told,
  // removed, and the next shorter one tried.
  Found restore(Chain& chain, const std::vector<int64_t>& prompt, size_t most) {
    Found found;
    for (const size_t count : lengths(std::min(most, prompt.size()))) {
      const std::string file = path(prompt.data(), count);
      if (access(file.c_str(), F_OK) != 0) continue;
      try {
        found.logits = restore_snapshot(file, plan_, chain, prompt.data(), count);
        found.count = count;
        utimensat(AT_FDCWD, file.c_str(), nullptr, 0);
        return found;
      } catch (const SnapshotRefused& error) {
        found.refused.push_back(std::to_string(count) + " tokens: " + error.what());
        unlink(file.c_str());
      }
    }
    return found;
  }

  // Keeps the state after `tokens`; the bytes it takes. Others make room, the one that was not used for longest first.
  int64_t keep(Chain& chain, const std::vector<int64_t>& tokens, const float* logits) {
    int64_t size = static_cast<int64_t>(sizeof(SnapshotHeader) + tokens.size() * sizeof tokens[0]) + 4ll * plan_.vocab;
    for (const auto& part : parts_of(chain, tokens.size())) size += static_cast<int64_t>(part.second);
    if (size > plan_.snapshots_bytes) {
      throw SnapshotRefused("it takes " + std::to_string(size) + " bytes of the " +
                            std::to_string(plan_.snapshots_bytes) + " that snapshots may take");
    }
    make_room(plan_.snapshots_bytes - size);
    return save_snapshot(path(tokens.data(), tokens.size()), plan_, chain, tokens, logits);
  }

 private:
  struct Entry {
    std::string name;
    int64_t bytes, used;
  };

  std::vector<Entry> entries() const {
    std::vector<Entry> all;
    DIR* directory = opendir(plan_.snapshots.c_str());
    if (!directory) throw std::runtime_error("cannot read " + plan_.snapshots + ": " + strerror(errno));
    while (const dirent* each = readdir(directory)) {
      struct stat info;
      if (stat(path(each->d_name).c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
      const int64_t used = static_cast<int64_t>(info.st_mtim.tv_sec) * 1000000000 + info.st_mtim.tv_nsec;
      all.push_back({each->d_name, static_cast<int64_t>(info.st_size), used});
    }
    closedir(directory);
    return all;
  }

  // The lengths of this Program's snapshots, longest first.
  std::vector<size_t> lengths(size_t most) const {
    const std::string mine = plan_.program.substr(0, 16) + "-";
    std::vector<size_t> found;
    for (const Entry& entry : entries()) {
      if (entry.name.rfind(mine, 0) != 0) continue;
      const size_t count = strtoul(entry.name.c_str() + mine.size(), nullptr, 10);
      if (count > 0 && count <= most) found.push_back(count);
    }
    std::sort(found.rbegin(), found.rend());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    return found;
  }

  void make_room(int64_t allowed) const {
    std::vector<Entry> all = entries();
    std::sort(all.begin(), all.end(), [](const Entry& a, const Entry& b) { return a.used < b.used; });
    int64_t total = 0;
    for (const Entry& entry : all) total += entry.bytes;
    for (const Entry& entry : all) {
      if (total <= allowed) return;
      unlink(path(entry.name).c_str());
      total -= entry.bytes;
    }
  }

  const Plan& plan_;
};

}  // namespace fulcrum
