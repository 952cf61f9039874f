package fulcrum;

import java.io.IOException;
import java.util.Arrays;

/** What a plan asks for, done with any kind of stage: the twin of `native/runner.cpp`. */
final class Loop {
  private final Plan plan;
  private final Answer answer;
  private Chain chain;

  private Loop(Plan plan, Answer answer) {
    this.plan = plan;
    this.answer = answer;
  }

  static void run(Plan plan, Stage.Loader loader, Answer answer) throws IOException {
    Loop loop = new Loop(plan, answer);
    if (plan.mode.equals("load")) loop.load(loader);
    else loop.work(loader);
    answer.done(Memory.peakBytes(), Memory.cpuNs());
  }

  /**
   * A load and nothing else, of files that may lie in the page cache: neither Java nor android.system.Os has
   * posix_fadvise, which would drop them. So it says that all of them stayed, and the agent flags the load as a warm one.
   */
  private void load(Stage.Loader loader) {
    long start = System.nanoTime();
    chain = new Chain(plan, loader);
    long taken = System.nanoTime() - start;
    answer.evicted(1.0);
    answer.loaded(taken, 0);
  }

  private void work(Stage.Loader loader) throws IOException {
    Sampler sampler = plan.memoryMs > 0 ? new Sampler(plan.memoryMs) : null;
    Memory.resetPeak();
    long baseline = Memory.peakBytes();
    long start = System.nanoTime();
    chain = new Chain(plan, loader);
    answer.loaded(System.nanoTime() - start, baseline);
    if (sampler != null) Memory.tell(answer, "loaded");
    switch (plan.mode) {
      case "measure": new Measure(plan, chain, answer).all(); break;
      case "stages": new Measure(plan, chain, answer).stages(); break;
      case "generate": generate(); break;
      case "golden": golden(); break;
      default: throw new IllegalArgumentException("the plan has an unknown mode: " + plan.mode);
    }
    if (sampler != null) {
      Memory.tell(answer, "steady");
      sampler.finish(answer);
    }
  }

  private void generate() {
    if (plan.prompt.length == 0) throw new IllegalArgumentException("the plan has no prompt");
    long start = System.nanoTime();
    Best best = new Best(chain.feed(plan.prompt));
    long taken = System.nanoTime() - start;
    answer.prefilled(taken);
    for (int i = 0; i < plan.decode; i++) {
      answer.token(best, taken);
      if (i + 1 == plan.decode) break;
      start = System.nanoTime();
      best = new Best(chain.feed(best.token));
      taken = System.nanoTime() - start;
    }
  }

  private void golden() {
    if (plan.prefill < 1 || plan.prefill > plan.prompt.length) {
      throw new IllegalArgumentException("the plan prefills more tokens than its prompt has");
    }
    for (int repetition = 0; repetition < plan.repetitions; repetition++) {
      chain.clear();
      for (int fed = 0, next = plan.prefill; fed < plan.prompt.length; fed = next, next = fed + 1) {
        long[] tokens = Arrays.copyOfRange(plan.prompt, fed, next);
        long start = System.nanoTime();
        float[] logits = chain.feed(tokens);
        answer.logits(System.nanoTime() - start, logits);
      }
    }
  }
}
