package fulcrum;

/** One method of one file, with the state that it carries from call to call. */
interface Stage {
  /** Tokens [1, S] or activations [1, S, width], whichever is not null. */
  final class Value {
    final long[] tokens;
    final float[] numbers;
    final long[] shape;

    Value(long[] tokens) {
      this.tokens = tokens;
      this.numbers = null;
      this.shape = new long[] {1, tokens.length};
    }

    Value(float[] numbers, long[] shape) {
      this.tokens = null;
      this.numbers = numbers;
      this.shape = shape;
    }
  }

  boolean hasState();

  /** Back to zero, before the first token. */
  void clear();

  /** `rewind` comes back to the state at `mark`; rows of an in-place state beyond the position need no copy. */
  void mark();

  void rewind();

  Value run(Value input, long position);

  /** Where stages come from: ExecuTorch on a phone, something simpler in a test. */
  interface Loader {
    Stage load(Plan.Stage plan, int threads);
  }
}
