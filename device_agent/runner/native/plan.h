// The plan: what the agent tells the runner, in lines of words (device_agent/runner/plan.py writes them).
#pragma once

#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace fulcrum {

struct StatePlan {
  bool in_place;
  std::string type = "float32";
  std::vector<int> shape;

  size_t element_bytes() const { return type == "int8" ? 1 : type == "float16" ? 2 : 4; }
  // What a position of the context takes; an in-place state has a row for each.
  size_t row_bytes() const {
    size_t bytes = element_bytes();
    for (size_t i = 2; i < shape.size(); ++i) bytes *= static_cast<size_t>(shape[i]);
    return bytes;
  }
  size_t bytes() const {
    size_t bytes = element_bytes();
    for (int size : shape) bytes *= static_cast<size_t>(size);
    return bytes;
  }
};

struct StagePlan {
  std::string path;
  bool takes_position;
  std::vector<StatePlan> states;
};

// What is measured beside the main workload: "prefill" times prompts, "decode" times tokens at a depth, "prefix" times
// a prompt that begins with `decode` tokens of a snapshot.
struct WorkloadPlan {
  std::string kind;
  int prefill = 0;
  int decode = 0;
};

struct Plan {
  std::string mode;
  int threads = 1;
  int chunk = 1;
  int vocab = 0;
  int context = 0;
  int prefill = 0;
  int decode = 0;
  int warmup = 0;
  int repetitions = 1;
  double warmup_seconds = 0;
  double repetition_seconds = 0;
  double max_seconds = 0;  // 0 is no cap
  int memory_ms = 0;       // 0 reads no memory while it runs
  std::vector<WorkloadPlan> further;
  std::vector<int64_t> prompt;
  std::string program;          // its hash; snapshots are bound to it
  std::string snapshots;        // the directory where they lie; empty: none are read or written
  int64_t snapshots_bytes = 0;  // what they may take together
  int prefix = 0;               // so many of the prompt's first tokens are looked for there, and kept
  std::vector<StagePlan> stages;
};

// [in_place|returned] [type, float32 where none is named] shape
inline StatePlan read_state(std::istringstream& words) {
  std::string update, next;
  words >> update;
  StatePlan state{update == "in_place", "float32", {}};
  if (update != "in_place" && update != "returned") words.setstate(std::ios::failbit);
  while (words >> next) {
    const bool type = state.shape.empty() && (next == "float32" || next == "float16" || next == "int8");
    if (type) state.type = next;
    else state.shape.push_back(std::stoi(next));
  }
  if (state.shape.size() < 2) throw std::invalid_argument("shape");
  return state;
}

inline Plan read_plan(const char* path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(std::string("cannot read the plan ") + path);
  Plan plan;
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string key;
    if (!(words >> key)) continue;
    if (key == "mode") words >> plan.mode;
    else if (key == "threads") words >> plan.threads;
    else if (key == "chunk") words >> plan.chunk;
    else if (key == "vocab") words >> plan.vocab;
    else if (key == "context") words >> plan.context;
    else if (key == "prefill") words >> plan.prefill;
    else if (key == "decode") words >> plan.decode;
    else if (key == "warmup") words >> plan.warmup;
    else if (key == "repetitions") words >> plan.repetitions;
    else if (key == "warmup_seconds") words >> plan.warmup_seconds;
    else if (key == "repetition_seconds") words >> plan.repetition_seconds;
    else if (key == "max_seconds") words >> plan.max_seconds;
    else if (key == "memory_ms") words >> plan.memory_ms;
    else if (key == "program") words >> plan.program;
    else if (key == "snapshots") words >> plan.snapshots >> plan.snapshots_bytes;
    else if (key == "prefix") words >> plan.prefix;
    else if (key == "workload") {
      WorkloadPlan workload;
      words >> workload.kind >> workload.prefill >> workload.decode;
      if (workload.kind != "prefill" && workload.kind != "decode" && workload.kind != "prefix") words.setstate(std::ios::failbit);
      plan.further.push_back(workload);
    } else if (key == "prompt") {
      for (int64_t token; words >> token;) plan.prompt.push_back(token);
      continue;
    } else if (key == "stage") {
      StagePlan stage;
      words >> stage.path >> stage.takes_position;
      plan.stages.push_back(stage);
    } else if (key == "state" && !plan.stages.empty()) {
      try {
        plan.stages.back().states.push_back(read_state(words));
      } catch (const std::logic_error&) {
        throw std::runtime_error("the plan has a malformed line: " + line);
      }
      continue;
    } else throw std::runtime_error("the plan has a line that this runner does not know: " + line);
    if (words.fail()) throw std::runtime_error("the plan has a malformed line: " + line);
  }
  if (plan.stages.empty() || plan.vocab < 2 || plan.chunk < 1) throw std::runtime_error("the plan is incomplete");
  return plan;
}

}  // namespace fulcrum
