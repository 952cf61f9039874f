// A chain of ExecuTorch methods that share the runner's state: the composed or monolithic Program of the manifest.
//
// State belongs to the runner. An in-place state (KV cache) is an input that the method writes through; a returned
// state (the convolution's last inputs) comes back as an output and is copied over its input after each call.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <executorch/runtime/core/data_loader.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>

#include "clock.h"
#include "plan.h"

namespace fulcrum {

namespace rt = executorch::runtime;
namespace aten = executorch::aten;

// An error of ExecuTorch, with the slug under which the agent reports it.
struct Refused : std::runtime_error {
  Refused(const std::string& what, rt::Error error)
      : std::runtime_error(what + ": ExecuTorch error 0x" + hex(error)),
        slug(error == rt::Error::MemoryAllocationFailed ? "out-of-memory" : "program-refused") {}
  static std::string hex(rt::Error error) {
    char text[16];
    snprintf(text, sizeof text, "%x", static_cast<unsigned>(error));
    return text;
  }
  const char* slug;
};

inline void check(rt::Error error, const std::string& what) {
  if (error != rt::Error::Ok) throw Refused(what, error);
}

// Maps the file; a segment is unmapped when ExecuTorch frees it (delegates free theirs once weights are packed).
class MappedFile final : public rt::DataLoader {
 public:
  explicit MappedFile(const std::string& path) : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    struct stat info;
    if (fd_ < 0 || fstat(fd_, &info) != 0) throw std::runtime_error("cannot open " + path);
    size_ = static_cast<size_t>(info.st_size);
  }
  ~MappedFile() override { close(fd_); }

  rt::Result<rt::FreeableBuffer> load(size_t offset, size_t size, const SegmentInfo&) const override {
    if (offset + size > size_) return rt::Error::InvalidArgument;
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t start = offset / page * page, length = offset + size - start;
    if (size == 0) return rt::FreeableBuffer(nullptr, 0, nullptr);
    void* base = mmap(nullptr, length, PROT_READ, MAP_PRIVATE, fd_, static_cast<off_t>(start));
    if (base == MAP_FAILED) return rt::Error::MemoryAllocationFailed;
    return rt::FreeableBuffer(static_cast<char*>(base) + (offset - start), size, unmap);
  }
  rt::Error load_into(size_t offset, size_t size, const SegmentInfo&, void* buffer) const override {
    const ssize_t got = pread(fd_, buffer, size, static_cast<off_t>(offset));
    return got == static_cast<ssize_t>(size) ? rt::Error::Ok : rt::Error::AccessFailed;
  }
  rt::Result<size_t> size() const override { return size_; }

 private:
  static void unmap(void*, void* data, size_t size) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t address = reinterpret_cast<size_t>(data), start = address / page * page;
    munmap(reinterpret_cast<void*>(start), address + size - start);
  }
  int fd_;
  size_t size_ = 0;
};

// ExecuTorch asks its allocator for small pieces while loading; they live as long as the method.
class Heap final : public rt::MemoryAllocator {
 public:
  Heap() : rt::MemoryAllocator(0, nullptr) {}
  void* allocate(size_t size, size_t alignment = kDefaultAlignment) override {
    void* memory = nullptr;
    if (posix_memalign(&memory, std::max(alignment, sizeof(void*)), std::max<size_t>(size, 1)) != 0) return nullptr;
    pieces_.emplace_back(memory, free);
    return memory;
  }
  void reset() override { pieces_.clear(); }

 private:
  std::vector<std::unique_ptr<void, decltype(&free)>> pieces_;
};

// A dense tensor over memory that somebody else owns.
class View {
 public:
  View(aten::ScalarType type, std::vector<int> shape, void* data) : sizes_(shape.begin(), shape.end()) {
    strides_.resize(sizes_.size());
    for (size_t i = sizes_.size(), stride = 1; i-- > 0; stride *= sizes_[i]) {
      strides_[i] = static_cast<aten::StridesType>(stride);
    }
    for (size_t i = 0; i < sizes_.size(); ++i) order_.push_back(static_cast<aten::DimOrderType>(i));
    impl_ = std::make_unique<aten::TensorImpl>(type, sizes_.size(), sizes_.data(), data, order_.data(), strides_.data());
  }
  rt::EValue value() const { return rt::EValue(aten::Tensor(impl_.get())); }

 private:
  std::vector<aten::SizesType> sizes_;
  std::vector<aten::StridesType> strides_;
  std::vector<aten::DimOrderType> order_;
  std::unique_ptr<aten::TensorImpl> impl_;
};

class Stage {
 public:
  explicit Stage(const StagePlan& plan) : plan_(plan), file_(plan.path) {
    auto program = rt::Program::load(&file_);
    check(program.error(), "loading " + plan.path);
    program_ = std::make_unique<rt::Program>(std::move(*program));
    auto meta = program_->method_meta("forward");
    check(meta.error(), "no method forward in " + plan.path);
    for (size_t i = 0; i < meta->num_memory_planned_buffers(); ++i) {
      arenas_.emplace_back(static_cast<size_t>(*meta->memory_planned_buffer_size(i)));
      spans_.emplace_back(arenas_.back().data(), arenas_.back().size());
    }
    planned_ = std::make_unique<rt::HierarchicalAllocator>(
        rt::Span<rt::Span<uint8_t>>(spans_.data(), spans_.size()));
    memory_ = std::make_unique<rt::MemoryManager>(&heap_, planned_.get(), &scratch_);
    auto method = program_->load_method("forward", memory_.get());
    check(method.error(), "loading forward of " + plan.path);
    method_ = std::make_unique<rt::Method>(std::move(*method));
    for (const auto& state : plan.states) states_.emplace_back(state.bytes());
  }

  bool has_state() const { return !states_.empty(); }

  const std::vector<StatePlan>& states() const { return plan_.states; }
  uint8_t* state(size_t i) { return states_[i].data(); }

  // An in-place state holds a row per position, and rows from the position on are written before they are read.
  void clear() {
    for (size_t i = 0; i < states_.size(); ++i) {
      if (!plan_.states[i].in_place) std::fill(states_[i].begin(), states_[i].end(), uint8_t{0});
    }
  }

  // `rewind` comes back to the state at `mark`.
  void mark() {
    marks_.assign(states_.size(), {});
    for (size_t i = 0; i < states_.size(); ++i) {
      if (!plan_.states[i].in_place) marks_[i] = states_[i];
    }
  }
  void rewind() {
    for (size_t i = 0; i < states_.size(); ++i) {
      if (!plan_.states[i].in_place) states_[i] = marks_[i];
    }
  }

  // Runs the method on `input`; returns its first output, valid until the next call.
  aten::Tensor run(const View& input, const View& position) {
    size_t index = 0;
    check(method_->set_input(input.value(), index++), "input of " + plan_.path);
    if (plan_.takes_position) check(method_->set_input(position.value(), index++), "position of " + plan_.path);
    for (size_t i = 0; i < states_.size(); ++i) {
      const View state(scalar_type(plan_.states[i]), plan_.states[i].shape, states_[i].data());
      check(method_->set_input(state.value(), index++), "state of " + plan_.path);
    }
    check(method_->execute(), "running " + plan_.path);
    size_t output = 1;
    for (size_t i = 0; i < states_.size(); ++i) {
      if (plan_.states[i].in_place) continue;
      const aten::Tensor next = method_->get_output(output++).toTensor();
      if (next.nbytes() != states_[i].size()) {
        throw std::runtime_error("a state of " + plan_.path + " came back in another size");
      }
      memcpy(states_[i].data(), next.const_data_ptr(), next.nbytes());
    }
    return method_->get_output(0).toTensor();
  }

 private:
  static aten::ScalarType scalar_type(const StatePlan& state) {
    if (state.type == "int8") return aten::ScalarType::Char;
    return state.type == "float16" ? aten::ScalarType::Half : aten::ScalarType::Float;
  }

  StagePlan plan_;
  MappedFile file_;
  Heap heap_, scratch_;
  std::vector<std::vector<uint8_t>> arenas_;
  std::vector<rt::Span<uint8_t>> spans_;
  std::unique_ptr<rt::Program> program_;
  std::unique_ptr<rt::HierarchicalAllocator> planned_;
  std::unique_ptr<rt::MemoryManager> memory_;
  std::unique_ptr<rt::Method> method_;
  std::vector<std::vector<uint8_t>> states_, marks_;
};

class Chain {
 public:
  explicit Chain(const Plan& plan) : plan_(plan) {
    for (const auto& stage : plan.stages) stages_.push_back(std::make_unique<Stage>(stage));
  }

  void clear() {
    position_ = 0;
    for (auto& stage : stages_) stage->clear();
  }

  // Remembers where the state is, for `rewind`.
  void mark() {
    marked_ = position_;
    for (auto& stage : stages_) stage->mark();
  }
  void rewind() {
    position_ = marked_;
    for (auto& stage : stages_) stage->rewind();
  }

  int64_t position() const { return position_; }
  void seek(int64_t position) { position_ = position; }
  const std::vector<std::unique_ptr<Stage>>& stages() const { return stages_; }

  // The time that each stage took in the last `feed`; kept only after `time_stages`.
  void time_stages() { stage_ns_.assign(stages_.size(), 0); }
  const std::vector<int64_t>& stage_ns() const { return stage_ns_; }

  // Feeds tokens in chunks; returns the logits [vocab] of the last one, valid until the next call.
  const float* feed(std::vector<int64_t> tokens) {
    if (position_ + static_cast<int64_t>(tokens.size()) > plan_.context) {
      throw std::runtime_error("the tokens do not fit into the Program's context length: " +
                               std::to_string(position_ + static_cast<int64_t>(tokens.size())) + " of " +
                               std::to_string(plan_.context));
    }
    std::fill(stage_ns_.begin(), stage_ns_.end(), 0);
    const float* logits = nullptr;
    for (size_t start = 0; start < tokens.size(); start += plan_.chunk) {
      const size_t length = std::min<size_t>(plan_.chunk, tokens.size() - start);
      logits = step(tokens.data() + start, static_cast<int>(length), start + length == tokens.size());
    }
    return logits;
  }

 private:
  const float* step(int64_t* tokens, int length, bool last_chunk) {
    const View position(aten::ScalarType::Long, {1}, &position_);
    auto input = std::make_unique<View>(aten::ScalarType::Long, std::vector<int>{1, length}, tokens);
    const float* out = nullptr;
    for (size_t i = 0; i < stages_.size(); ++i) {
      // Logits of an unfinished prompt are read by nobody; a last stage without state may be left out.
      const bool head = i + 1 == stages_.size();
      if (head && !last_chunk && i > 0 && !stages_[i]->has_state()) break;
      const int64_t start = stage_ns_.empty() ? 0 : now_ns();
      const aten::Tensor value = stages_[i]->run(*input, position);
      if (!stage_ns_.empty()) stage_ns_[i] += now_ns() - start;
      out = value.const_data_ptr<float>();
      if (head) {
        if (value.numel() != plan_.vocab) throw std::runtime_error("the last stage did not give [1, 1, vocab]");
        break;
      }
      std::vector<int> shape(value.sizes().begin(), value.sizes().end());
      input = std::make_unique<View>(aten::ScalarType::Float, shape, const_cast<float*>(out));
    }
    position_ += length;
    return out;
  }

  Plan plan_;
  int64_t position_ = 0, marked_ = 0;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::vector<int64_t> stage_ns_;
};

}  // namespace fulcrum
