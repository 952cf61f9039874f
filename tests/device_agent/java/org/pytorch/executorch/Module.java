package org.pytorch.executorch;

import java.util.Arrays;

/**
 * Programs that only add, by the name of their file. `sum` keeps every token in a row of its position, in place, as
 * attention does, and gives the running sums; `pair` adds the value before to each, and returns the last as its state,
 * as a convolution does; `head` makes logits of the last value.
 */
public final class Module {
  public static final int LOAD_MODE_MMAP = 1;
  private final String name;

  private Module(String name) {
    this.name = name;
  }

  public static Module load(String path, int mode, int threads) {
    if (path.endsWith("memory")) throw new OutOfMemoryError();
    return new Module(path.substring(path.lastIndexOf('/') + 1));
  }

  public int loadMethod(String method) {
    return 0;
  }

  public EValue[] forward(EValue... inputs) {
    if (name.equals("refused")) throw new ExecutorchRuntimeException("no such operator");
    switch (name) {
      case "sum": return sum(inputs[0].toTensor(), (int) inputs[1].toTensor().longs.get(0), inputs[2].toTensor());
      case "pair": return pair(inputs[0].toTensor(), inputs[1].toTensor().floats.get(0));
      default: return head(inputs[0].toTensor().getDataAsFloatArray());
    }
  }

  private static EValue[] sum(Tensor input, int position, Tensor rows) {
    long[] tokens = new long[input.longs.capacity()];
    for (int i = 0; i < tokens.length; i++) tokens[i] = input.longs.get(i);
    System.err.println("fed " + position + " " + Arrays.toString(tokens));
    float sum = 0;
    for (int i = 0; i < position; i++) sum += rows.floats.get(i);
    float[] sums = new float[tokens.length];
    for (int i = 0; i < sums.length; i++) {
      rows.floats.put(position + i, tokens[i]);
      sums[i] = sum += tokens[i];
    }
    return new EValue[] {EValue.from(Tensor.of(sums, 1, sums.length, 1))};
  }

  private static EValue[] pair(Tensor input, float before) {
    float[] pairs = input.getDataAsFloatArray();
    for (int i = 0; i < pairs.length; i++) {
      float value = pairs[i];
      pairs[i] += before;
      before = value;
    }
    Tensor state = Tensor.of(new float[] {before}, 1, 1);
    return new EValue[] {EValue.from(Tensor.of(pairs, input.shape())), EValue.from(state)};
  }

  private EValue[] head(float[] values) {
    float[] logits = new float[name.equals("broken") ? 3 : 8];
    int last = (int) values[values.length - 1];
    for (int i = 0; i < logits.length; i++) logits[i] = (last * 5 + i * 3) % 8 + 0.25f * i;
    if (name.equals("nan-head")) logits[2] = Float.NaN;
    return new EValue[] {EValue.from(Tensor.of(logits, 1, 1, logits.length))};
  }
}
