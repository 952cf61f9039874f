package com.facebook.soloader.nativeloader;

/** The loader that ExecuTorch's classes ask for their library. */
public class NativeLoader {
  private static NativeLoaderDelegate delegate;

  private NativeLoader() {}

  public static synchronized void init(NativeLoaderDelegate chosen) {
    delegate = chosen;
  }

  public static synchronized boolean isInitialized() {
    return delegate != null;
  }

  public static boolean loadLibrary(String name) {
    return delegate.loadLibrary(name);
  }
}
