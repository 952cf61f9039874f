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
  std::vector<int> shape;
};

struct StagePlan {
  std::string path;
  bool takes_position;
  std::vector<StatePlan> states;
};

// What is measured beside the main workload: "prefill" times prompts, "decode" times tokens at a depth.
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
  std::vector<StagePlan> stages;
};

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
    else if (key == "workload") {
      WorkloadPlan workload;
      words >> workload.kind >> workload.prefill >> workload.decode;
      if (workload.kind != "prefill" && workload.kind != "decode") words.setstate(std::ios::failbit);
      plan.further.push_back(workload);
    } else if (key == "prompt") {
      for (int64_t token; words >> token;) plan.prompt.push_back(token);
      continue;
    } else if (key == "stage") {
      StagePlan stage;
      words >> stage.path >> stage.takes_position;
      plan.stages.push_back(stage);
    } else if (key == "state" && !plan.stages.empty()) {
      std::string update;
      words >> update;
      StatePlan state{update == "in_place", {}};
      for (int size; words >> size;) state.shape.push_back(size);
      plan.stages.back().states.push_back(state);
      continue;
    } else throw std::runtime_error("the plan has a line that this runner does not know: " + line);
    if (words.fail()) throw std::runtime_error("the plan has a malformed line: " + line);
  }
  if (plan.stages.empty() || plan.vocab < 2 || plan.chunk < 1) throw std::runtime_error("the plan is incomplete");
  return plan;
}

}  // namespace fulcrum
