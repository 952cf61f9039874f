package com.facebook.jni;

/** A Runnable whose body is native. */
public class NativeRunnable extends HybridClassBase implements Runnable {
  protected NativeRunnable() {}

  @Override
  public native void run();
}
