package fulcrum;

import java.io.IOException;
import java.util.Arrays;

/** What a plan asks for, done with any kind of stage: the twin of `native/runner.cpp`. */
final class Loop {
  /** The best token and the second best. */
  static final class Best {
    int token = 0;
    int runnerUp = 1;
    float logit;
    float runnerUpLogit;

    Best(float[] logits) {
      logit = logits[0];
      runnerUpLogit = logits[1];
      if (logits[1] > logits[0]) {
        token = 1;
        runnerUp = 0;
        logit = logits[1];
        runnerUpLogit = logits[0];
      }
      for (int i = 2; i < logits.length; i++) {
        if (logits[i] > logit) {
          runnerUp = token;
          runnerUpLogit = logit;
          token = i;
          logit = logits[i];
        } else if (logits[i] > runnerUpLogit) {
          runnerUp = i;
          runnerUpLogit = logits[i];
        }
      }
    }
  }

  private final Plan plan;
  private final Answer answer;
  private Chain chain;

  private Loop(Plan plan, Answer answer) {
    this.plan = plan;
    this.answer = answer;
  }

  static void run(Plan plan, Stage.Loader loader, Answer answer) throws IOException {
    new Loop(plan, answer).run(loader);
  }

  private void run(Stage.Loader loader) throws IOException {
    Memory.resetPeak();
    long baseline = Memory.peakBytes();
    long start = System.nanoTime();
    chain = new Chain(plan, loader);
    answer.loaded(System.nanoTime() - start, baseline);
    switch (plan.mode) {
      case "measure": measure(); break;
      case "generate": generate(); break;
      case "golden": golden(); break;
      default: throw new IllegalArgumentException("the plan has an unknown mode: " + plan.mode);
    }
    answer.done(Memory.peakBytes());
  }

  private void measure() {
    long[] prompt = syntheticPrompt(plan.prefill, plan.vocab);
    for (int repetition = -plan.warmup; repetition < plan.repetitions; repetition++) {
      chain.clear();
      long start = System.nanoTime();
      int token = new Best(chain.feed(prompt)).token;
      long prefill = System.nanoTime() - start;
      long[] decode = new long[plan.decode];
      for (int i = 0; i < decode.length; i++) {
        start = System.nanoTime();
        token = new Best(chain.feed(token)).token;
        decode[i] = System.nanoTime() - start;
      }
      if (repetition >= 0) answer.repetition(prefill, decode);
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

  /** The same pseudo-random prompt as the native runner's (Knuth's MMIX multiplier). */
  static long[] syntheticPrompt(int length, int vocab) {
    long[] tokens = new long[length];
    long x = 1;
    for (int i = 0; i < length; i++) {
      x = x * 6364136223846793005L + 1442695040888963407L;
      tokens[i] = (x >>> 33) % vocab;
    }
    return tokens;
  }
}
