package org.pytorch.executorch;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;

/** What the runner uses of ExecuTorch's tensor: a shape over a direct buffer that stays the caller's. */
public final class Tensor {
  final FloatBuffer floats;
  final LongBuffer longs;
  private final long[] shape;

  private Tensor(FloatBuffer floats, LongBuffer longs, long[] shape) {
    this.floats = floats;
    this.longs = longs;
    this.shape = shape;
    Buffer data = floats != null ? floats : longs;
    long size = 1;
    for (long n : shape) size *= n;
    if (!data.isDirect() || data.capacity() != size) throw new IllegalArgumentException("not a direct buffer of the shape");
  }

  public static FloatBuffer allocateFloatBuffer(int count) {
    return ByteBuffer.allocateDirect(count * 4).order(ByteOrder.nativeOrder()).asFloatBuffer();
  }

  public static LongBuffer allocateLongBuffer(int count) {
    return ByteBuffer.allocateDirect(count * 8).order(ByteOrder.nativeOrder()).asLongBuffer();
  }

  public static Tensor fromBlob(FloatBuffer data, long[] shape) {
    return new Tensor(data, null, shape);
  }

  public static Tensor fromBlob(LongBuffer data, long[] shape) {
    return new Tensor(null, data, shape);
  }

  static Tensor of(float[] values, long... shape) {
    FloatBuffer data = allocateFloatBuffer(values.length);
    data.put(values).rewind();
    return fromBlob(data, shape);
  }

  public float[] getDataAsFloatArray() {
    float[] values = new float[floats.capacity()];
    for (int i = 0; i < values.length; i++) values[i] = floats.get(i);
    return values;
  }

  public long[] shape() {
    return shape;
  }
}
