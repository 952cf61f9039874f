package fulcrum;

import java.util.Arrays;

/** The runner's own logic over stages that only add: `sum` passes on the running sum, `head` makes logits of it. */
public final class FakeRunner implements Stage.Loader {
  @Override
  public Stage load(Plan.Stage plan, int threads) {
    if (plan.path.endsWith("memory")) throw new OutOfMemoryError();
    return new FakeStage(plan);
  }

  public static void main(String[] arguments) {
    System.exit(Main.run(arguments, new FakeRunner(), new Answer(System.out)));
  }

  private static final class FakeStage implements Stage {
    private final Plan.Stage plan;
    private float sum = 0;
    private float marked = 0;

    FakeStage(Plan.Stage plan) {
      this.plan = plan;
    }

    @Override
    public boolean hasState() {
      return !plan.states.isEmpty();
    }

    @Override
    public void clear() {
      sum = 0;
    }

    @Override
    public void mark() {
      marked = sum;
    }

    @Override
    public void rewind() {
      sum = marked;
    }

    @Override
    public Value run(Value input, long position) {
      if (input.tokens != null) System.err.println("fed " + position + " " + Arrays.toString(input.tokens));
      if (plan.path.endsWith("sum")) {
        for (long token : input.tokens) sum += token;
        return new Value(new float[] {sum}, new long[] {1, 1, 1});
      }
      float[] logits = new float[plan.path.endsWith("broken") ? 3 : 8];
      for (int i = 0; i < logits.length; i++) logits[i] = ((int) input.numbers[0] * 5 + i * 3) % 8 + 0.25f * i;
      if (plan.path.endsWith("nan-head")) logits[2] = Float.NaN;
      return new Value(logits, new long[] {1, 1, logits.length});
    }
  }
}
