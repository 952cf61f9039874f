package fulcrum;

/** Repetitions of workloads, timed: the twin of `native/measure.h`. */
final class Measure {
  private final Plan plan;
  private final Chain chain;
  private final Answer answer;
  private int token;

  Measure(Plan plan, Chain chain, Answer answer) {
    this.plan = plan;
    this.chain = chain;
    this.answer = answer;
  }

  /** One run of a workload. */
  private interface Run {
    void go();
  }

  void all() {
    turns();
    for (int i = 0; i < plan.further.size(); i++) {
      Plan.Workload workload = plan.further.get(i);
      if (workload.kind.equals("decode")) atDepth(workload, i + 1);
      else prompts(workload.prefill, i + 1);
    }
  }

  /** The main workload: prefill and decode from an empty state, again and again. */
  private void turns() {
    final long[] prompt = syntheticPrompt(plan.prefill, plan.vocab);
    warmUp(new Run() {
      private boolean told = false;

      @Override
      public void go() {
        long taken = prefill(prompt);
        decode(plan.decode);
        if (!told) answer.first(taken);
        told = true;
      }
    });
    repeat(new Run() {
      @Override
      public void go() {
        long taken = prefill(prompt);
        answer.repetition(taken, decode(plan.decode));
      }
    });
  }

  private void prompts(int tokens, final int number) {
    final long[] prompt = syntheticPrompt(tokens, plan.vocab);
    warmUp(new Run() {
      @Override
      public void go() {
        prefill(prompt);
      }
    });
    repeat(new Run() {
      @Override
      public void go() {
        answer.repetition(number, prefill(prompt));
      }
    });
  }

  /** The depth is reached once; each repetition decodes from there and goes back. */
  private void atDepth(final Plan.Workload workload, final int number) {
    answer.filled(number, prefill(syntheticPrompt(workload.prefill, plan.vocab)));
    final int first = token;
    chain.mark();
    warmUp(new Run() {
      @Override
      public void go() {
        token = first;
        decode(workload.decode);
        chain.rewind();
      }
    });
    repeat(new Run() {
      @Override
      public void go() {
        token = first;
        long[] taken = decode(workload.decode);
        chain.rewind();
        answer.repetition(number, taken, token);
      }
    });
  }

  /** The main workload with a clock around every stage; what the clocks cost makes it unfit for any other figure. */
  void stages() {
    long[] prompt = syntheticPrompt(plan.prefill, plan.vocab);
    long[][] prefills = new long[plan.stages.size()][plan.repetitions];
    long[][] decodes = new long[plan.stages.size()][plan.repetitions * plan.decode];
    chain.timeStages();
    for (int run = -plan.warmup; run < plan.repetitions; run++) {
      prefill(prompt);
      note(prefills, run);
      for (int i = 0; i < plan.decode; i++) {
        decode(1);
        note(decodes, run < 0 ? -1 : run * plan.decode + i);
      }
    }
    for (int i = 0; i < prefills.length; i++) answer.stage(i, prefills[i], decodes[i]);
  }

  private void note(long[][] times, int at) {
    for (int i = 0; at >= 0 && i < times.length; i++) times[i][at] = chain.stageNs()[i];
  }

  private void warmUp(Run run) {
    until(plan.warmup, plan.warmupSeconds, run);
  }

  private void repeat(Run run) {
    until(plan.repetitions, plan.repetitionSeconds, run);
  }

  /** Runs until both the count and the seconds are reached, or the cap (if there is one) is over. */
  private void until(int runs, double seconds, Run run) {
    long start = System.nanoTime();
    for (int done = 0; ; done++) {
      double elapsed = (System.nanoTime() - start) * 1e-9;
      if (done >= runs && elapsed >= seconds) return;
      if (done > 0 && plan.maxSeconds > 0 && elapsed >= plan.maxSeconds) return;
      run.go();
    }
  }

  /** A prompt from an empty state; its time to the first logits, whose choice is in `token`. */
  private long prefill(long[] prompt) {
    chain.clear();
    long start = System.nanoTime();
    token = new Best(chain.feed(prompt)).token;
    return System.nanoTime() - start;
  }

  private long[] decode(int count) {
    long[] times = new long[count];
    for (int i = 0; i < count; i++) {
      long start = System.nanoTime();
      token = new Best(chain.feed(token)).token;
      times[i] = System.nanoTime() - start;
    }
    return times;
  }

  /** The same pseudo-random prompt as the native runner's (Knuth's MMIX multiplier). */
  private static long[] syntheticPrompt(int length, int vocab) {
    long[] tokens = new long[length];
    long x = 1;
    for (int i = 0; i < length; i++) {
      x = x * 6364136223846793005L + 1442695040888963407L;
      tokens[i] = (x >>> 33) % vocab;
    }
    return tokens;
  }
}
