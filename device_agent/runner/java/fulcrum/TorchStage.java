package fulcrum;

import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import org.pytorch.executorch.EValue;
import org.pytorch.executorch.Module;
import org.pytorch.executorch.Tensor;

/**
 * A stage run by ExecuTorch's Java API. State lives in direct buffers, whose memory the native side reads and writes
 * in place (extension/android/jni/jni_layer.cpp wraps their address); a returned state is copied back over its input.
 */
final class TorchStage implements Stage {
  private final Plan.Stage plan;
  private final Module module;
  private final FloatBuffer[] memory;
  private final EValue[] states;
  private final float[][] marks;

  TorchStage(Plan.Stage plan, int threads) {
    this.plan = plan;
    module = Module.load(plan.path, Module.LOAD_MODE_MMAP, threads);
    module.loadMethod("forward"); // releases differ in how they report an error here; the first run throws it
    memory = new FloatBuffer[plan.states.size()];
    states = new EValue[memory.length];
    marks = new float[memory.length][];
    for (int i = 0; i < memory.length; i++) {
      Plan.State state = plan.states.get(i);
      memory[i] = Tensor.allocateFloatBuffer(state.size());
      states[i] = EValue.from(Tensor.fromBlob(memory[i], state.shape));
    }
    clear();
  }

  @Override
  public boolean hasState() {
    return memory.length > 0;
  }

  @Override
  public void clear() {
    for (FloatBuffer buffer : memory) {
      for (int i = 0; i < buffer.capacity(); i++) buffer.put(i, 0.0f);
    }
  }

  @Override
  public void mark() {
    for (int i = 0; i < memory.length; i++) {
      if (plan.states.get(i).inPlace) continue;
      marks[i] = new float[memory[i].capacity()];
      memory[i].rewind();
      memory[i].get(marks[i]);
      memory[i].rewind();
    }
  }

  @Override
  public void rewind() {
    for (int i = 0; i < memory.length; i++) {
      if (!plan.states.get(i).inPlace) set(memory[i], marks[i]);
    }
  }

  private static void set(FloatBuffer buffer, float[] values) {
    buffer.rewind();
    buffer.put(values);
    buffer.rewind();
  }

  @Override
  public Value run(Value input, long position) {
    EValue[] inputs = new EValue[1 + (plan.takesPosition ? 1 : 0) + states.length];
    int next = 0;
    inputs[next++] = EValue.from(tensor(input));
    if (plan.takesPosition) inputs[next++] = EValue.from(tensor(new long[] {position}, new long[] {1}));
    for (EValue state : states) inputs[next++] = state;
    EValue[] outputs = module.forward(inputs);
    int output = 1;
    for (int i = 0; i < memory.length; i++) {
      if (plan.states.get(i).inPlace) continue;
      float[] returned = outputs[output++].toTensor().getDataAsFloatArray();
      if (returned.length != memory[i].capacity()) {
        throw new IllegalStateException("a state of " + plan.path + " came back in another size");
      }
      set(memory[i], returned);
    }
    Tensor result = outputs[0].toTensor();
    return new Value(result.getDataAsFloatArray(), result.shape());
  }

  private static Tensor tensor(Value value) {
    if (value.tokens != null) return tensor(value.tokens, value.shape);
    FloatBuffer buffer = Tensor.allocateFloatBuffer(value.numbers.length);
    buffer.put(value.numbers).rewind();
    return Tensor.fromBlob(buffer, value.shape);
  }

  private static Tensor tensor(long[] numbers, long[] shape) {
    LongBuffer buffer = Tensor.allocateLongBuffer(numbers.length);
    buffer.put(numbers).rewind();
    return Tensor.fromBlob(buffer, shape);
  }
}
