package com.facebook.jni;

/** Lets native threads run code below a Java frame, so that class look-up works there. */
public class ThreadScopeSupport {
  private ThreadScopeSupport() {}

  private static void runStdFunction(long pointer) {
    runStdFunctionImpl(pointer);
  }

  private static native void runStdFunctionImpl(long pointer);
}
