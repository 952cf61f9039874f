package com.facebook.soloader.nativeloader;

/** How libraries are loaded. */
public interface NativeLoaderDelegate {
  boolean loadLibrary(String name);
}
