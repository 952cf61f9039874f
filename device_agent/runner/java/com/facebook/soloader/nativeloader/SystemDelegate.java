package com.facebook.soloader.nativeloader;

/** Loads from the directory that the runner's bundle lies in, by absolute path: app_process has no library path. */
public class SystemDelegate implements NativeLoaderDelegate {
  @Override
  public boolean loadLibrary(String name) {
    String directory = System.getProperty("fulcrum.libdir");
    if (directory == null) throw new UnsatisfiedLinkError("start the runner with -Dfulcrum.libdir=DIRECTORY");
    System.load(directory + "/" + System.mapLibraryName(name));
    return true;
  }
}
