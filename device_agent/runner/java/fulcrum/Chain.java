package fulcrum;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** Stages one after the other over the tokens of a sequence, as `native/chain.h` does it. */
final class Chain {
  private final Plan plan;
  private final List<Stage> stages = new ArrayList<>();
  private long[] stageNs = {};
  private long position = 0;
  private long marked = 0;

  Chain(Plan plan, Stage.Loader loader) {
    this.plan = plan;
    for (Plan.Stage stage : plan.stages) stages.add(loader.load(stage, plan.threads));
  }

  void clear() {
    position = 0;
    for (Stage stage : stages) stage.clear();
  }

  /** Remembers where the state is, for `rewind`. */
  void mark() {
    marked = position;
    for (Stage stage : stages) stage.mark();
  }

  void rewind() {
    position = marked;
    for (Stage stage : stages) stage.rewind();
  }

  /** From now on `stageNs` has the time that each stage took in the last `feed`; else no clock is read in between. */
  void timeStages() {
    stageNs = new long[stages.size()];
  }

  long[] stageNs() {
    return stageNs;
  }

  /** Feeds tokens in chunks; the logits [vocab] of the last one. */
  float[] feed(long... tokens) {
    if (position + tokens.length > plan.context) {
      throw new IllegalArgumentException("the tokens do not fit into the Program's context length");
    }
    Arrays.fill(stageNs, 0);
    float[] logits = null;
    for (int start = 0; start < tokens.length; start += plan.chunk) {
      int end = Math.min(start + plan.chunk, tokens.length);
      logits = step(Arrays.copyOfRange(tokens, start, end), end == tokens.length);
    }
    return logits;
  }

  private float[] step(long[] tokens, boolean lastChunk) {
    Stage.Value value = new Stage.Value(tokens);
    for (int i = 0; i < stages.size(); i++) {
      // Logits of an unfinished prompt are read by nobody; a last stage without state may be left out.
      boolean head = i + 1 == stages.size();
      if (head && !lastChunk && i > 0 && !stages.get(i).hasState()) break;
      long start = stageNs.length == 0 ? 0 : System.nanoTime();
      value = stages.get(i).run(value, position);
      if (stageNs.length > 0) stageNs[i] += System.nanoTime() - start;
      if (head && value.numbers.length != plan.vocab) {
        throw new IllegalStateException("the last stage did not give [1, 1, vocab]");
      }
    }
    position += tokens.length;
    return value.numbers;
  }
}
